package pci

import (
	"testing"

	"virtd/hypervisor/bus"
)

// A ROM gets an address behind its port, is off until the guest switches it on, and shares nothing with BARs.
func TestROM(t *testing.T) {
	b := newBoard(t)
	if err := b.AddRootPort(Address{Slot: 2}, RootPortConfig{Index: 1}); err != nil {
		t.Fatal(err)
	}
	f := largeBAR(1 << 20)
	image := &ram{}
	image.data[3] = 0x5a
	f.AddROM(64<<10, image)
	if err := b.Add(Address{Bus: 1}, f); err != nil {
		t.Fatal(err)
	}
	if err := b.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	at := uint64(f.Uint32(regROM))
	if at == 0 || at&0xffff != 0 || !b.bridges[1].windows().memory.contains(at, 64<<10) {
		t.Fatalf("ROM at %#x, its port forwards %#x", at, b.bridges[1].windows().memory)
	}
	p := []byte{0}
	if b.memory.Read(at+3, p) {
		t.Error("decoded before it is switched on")
	}
	write(f.ConfigWrite, regROM, 4, at|romEnable)
	if !b.memory.Read(at+3, p) || p[0] != 0x5a {
		t.Errorf("reads %#x", p)
	}
	write(f.ConfigWrite, regCommand, 2, commandIO)
	if b.memory.Read(at+3, p) {
		t.Error("decoded while memory is off")
	}
	write(f.ConfigWrite, regCommand, 2, commandMemory)
	for _, where := range []uint64{0xffffffff, 0, romEnable, 0x10000 | romEnable, testWindows.ECAM | romEnable} {
		write(f.ConfigWrite, regROM, 4, where) // sizing, off, nowhere, RAM, configuration space: none of it is forwarded
		for _, d := range f.decoders {
			if d.name == "ROM" && d.mapped {
				t.Errorf("%#x is decoded at %#x", where, d.at)
			}
		}
	}
	for _, size := range []uint64{0, 512, 3 << 10, 32 << 20} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a ROM of %#x bytes was accepted", size)
				}
			}()
			NewFunction(Identity{}).AddROM(size, bus.Device(image))
		}()
	}
}
