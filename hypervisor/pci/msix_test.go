package pci

import (
	"encoding/binary"
	"testing"
)

func TestMSIX(t *testing.T) {
	b := newBoard(t)
	f, m := testFunction(t, b.controller, true)
	b.Add(Address{Slot: 3}, f)
	if err := b.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	bar := f.decoders[1].at
	table := func(off, n int, v uint64) {
		var p [8]byte
		binary.LittleEndian.PutUint64(p[:], v)
		b.memory.Write(bar+uint64(off), p[:n])
	}
	pba := func(n int) uint64 {
		var p [8]byte
		b.memory.Read(bar+0x800, p[:n])
		return binary.LittleEndian.Uint64(p[:])
	}
	control := func(v uint64) { write(f.ConfigWrite, m.at+2, 2, v) }
	v := m.vectors[1].msi.(*fakeMSI)

	// Entry 1 written by odd widths: 4, 2+2, 1+1+2, then unmasked by its low byte.
	table(16, 4, 0xfee0_3000)
	table(20, 2, 0)
	table(22, 2, 0)
	table(24, 1, 0x45)
	table(25, 1, 0)
	table(26, 2, 0)
	table(28, 1, 0)
	if !v.masked {
		t.Error("unmasked while MSI-X is off")
	}
	m.Vector(1).Signal()
	if pba(8) != 2 {
		t.Errorf("pending bits %#x while off", pba(8))
	}
	control(msixEnable)
	if !v.masked {
		t.Error("delivers although the function is no bus master")
	}
	write(f.ConfigWrite, 4, 2, commandMemory|commandMaster)
	if v.masked || v.delivered != 1 || v.address != 0xfee0_3000 || v.data != 0x45 {
		t.Errorf("after enable: %+v", v)
	}
	control(msixEnable | msixMaskAll)
	m.Vector(1).Signal()
	if !v.masked || pba(1) != 2 || v.delivered != 1 {
		t.Errorf("function mask: %+v, pending %#x", v, pba(1))
	}
	control(msixEnable)
	if v.delivered != 2 || pba(1) != 0 {
		t.Errorf("function unmask: %+v", v)
	}
	configured := v.configured
	table(28, 4, 1)
	table(28, 4, 0)
	if v.configured != configured {
		t.Error("masking and unmasking alone costs a new route")
	}
	table(28, 4, 0xffff_fffe) // reserved bits
	var p [4]byte
	if b.memory.Read(bar+28, p[:]); p != [4]byte{} {
		t.Errorf("reserved bits of vector control stored: % x", p)
	}
	// An eight-byte write over data and control masks and changes the message at once.
	table(24, 8, 1<<32|0x99)
	if !v.masked {
		t.Error("wide write did not mask")
	}
	v.refuse = true
	table(28, 4, 0)
	if !v.masked {
		t.Error("a refused message must leave the vector masked")
	}
	if m.Vector(4) != nil || m.Vector(-1) != nil || m.Vector(0xffff) != nil {
		t.Error("vectors that do not exist")
	}
	f.Reset()
	if m.Enabled() || m.table[28] != 1 {
		t.Error("reset")
	}
	if err := m.Close(); err != nil || !v.closed {
		t.Error("Close left the interrupt")
	}
}

func TestMSIXWithoutInterruptsLeft(t *testing.T) {
	c := newController()
	c.left = 2
	f := NewFunction(Identity{})
	f.AddBAR(BAR{Index: 1, Kind: Memory32, Size: 4096})
	if _, err := f.AddMSIX(4, c, 1, 0, 0x800); err == nil {
		t.Error("AddMSIX succeeded without interrupts")
	}
}
