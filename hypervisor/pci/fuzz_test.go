package pci

import (
	"encoding/binary"
	"testing"
)

// FuzzConfigSpace runs an arbitrary stream of configuration and memory accesses against a populated board: nothing may
// panic, no BAR may cover RAM, what is read-only stays, and what the registers say is decoded is what is decoded.
func FuzzConfigSpace(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0x04, 0, 2, 7, 0})
	f.Add([]byte{1, 0x18, 0, 0x10, 0, 3, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Add([]byte{0x41, 0x10, 0, 0xff, 3, 3, 1, 2, 3, 4, 5, 6, 7, 8, 0x82, 0x60, 0, 0, 0, 3})
	f.Add([]byte{0, 0x10, 0, 0x3e, 0, 0, 0x40, 0, 0x10, 0, 0x19, 0, 1, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := newBoard(t)
		for i := uint8(1); i <= 3; i++ {
			if err := b.AddRootPort(Address{Slot: 2, Function: i - 1}, RootPortConfig{Index: i, Port: i}); err != nil {
				t.Fatal(err)
			}
			d, _ := testFunction(t, b.controller, true)
			b.Add(Address{Bus: i}, d)
		}
		d, _ := testFunction(t, b.controller, true)
		b.Add(Address{Slot: 3}, d)
		if err := b.Assign(testWindows); err != nil {
			t.Fatal(err)
		}
		for len(ops) >= 6 {
			ops = step(b, ops)
		}
		for _, fn := range b.Functions() {
			checkInvariants(t, b, fn)
		}
	})
}

// step runs one operation: kind and bus, devfn, register, width, data.
func step(b *board, ops []byte) []byte {
	kind, busNumber, devfn := ops[0]>>6, ops[0]&0x3f, ops[1]
	reg := int(binary.LittleEndian.Uint16(ops[2:]) & 0xfff)
	n := 1 << (ops[5] & 3)
	reg += int(ops[4] & 1)
	ops = ops[6:]
	data := make([]byte, n)
	ops = ops[copy(data, ops):]
	ecam := testWindows.ECAM + uint64(busNumber)<<20 + uint64(devfn)<<12 + uint64(reg)
	switch kind {
	case 0:
		b.ConfigWrite(busNumber, devfn, reg, data)
	case 1:
		b.ConfigRead(busNumber, devfn, reg, data)
	case 2:
		b.memory.Write(ecam, data)
	default:
		all := b.Functions()
		fn := all[int(devfn)%len(all)]
		if len(fn.decoders) > 0 {
			d := fn.decoders[int(busNumber)%len(fn.decoders)]
			d.dev.Read(uint64(reg), data)
			d.dev.Write(uint64(reg), data)
		}
	}
	return ops
}

func checkInvariants(t *testing.T, b *board, fn *Function) {
	if id := fn.identity; fn.Uint16(regVendor) != id.Vendor || fn.Uint16(regDevice) != id.Device {
		t.Errorf("%v: identity changed", fn)
	}
	for _, d := range fn.decoders {
		base, on := d.target()
		if d.mapped && (!on || base != d.at) {
			t.Errorf("%v: %s decoded at %#x, registers say %#x %v", fn, d.name, d.at, base, on)
		}
		for _, r := range b.reserved {
			if d.mapped && !d.io && r.overlaps(d.at, d.size) {
				t.Errorf("%v: %s decoded over RAM at %#x", fn, d.name, d.at)
			}
		}
	}
	seen := 0
	for at := int(fn.Uint8(regCapPointer)); at != 0; at = int(fn.Uint8(at + 1)) {
		if seen++; seen > 48 {
			t.Fatalf("%v: capability list became a loop", fn)
		}
	}
}
