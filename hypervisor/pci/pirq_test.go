package pci

import (
	"slices"
	"testing"

	"virtd/hypervisor/interrupt"
)

// Who drives a pin by the kernel hears of its global system interrupt: on q35 the I/O APIC's, on pc what the guest steers
// it to.
func TestOnPin(t *testing.T) {
	pinned := func(root *Root) (*Function, *[]int) {
		f := NewFunction(Identity{Vendor: 0x8086, Device: 0x10d3})
		f.UseINTx(1)
		var told []int
		f.OnPin(func(gsi int) { told = append(told, gsi) })
		if err := root.Add(Address{Slot: 5}, f); err != nil {
			t.Fatal(err)
		}
		return f, &told
	}
	q := newBoard(t)
	f, told := pinned(q.Root)
	if err := q.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	q.Remove(f)
	if want := []int{FirstPIRQGSI + Q35PIRQ(5, 1), interrupt.NoPin}; !slices.Equal(*told, want) {
		t.Errorf("q35: told %v, want %v", *told, want)
	}

	b := &board{controller: newController()}
	pc, err := NewI440FX(I440FXConfig{RootConfig: b.config(), Controller: b.controller, PM: &ram{}})
	if err != nil {
		t.Fatal(err)
	}
	f, told = pinned(pc.Root)
	if err := pc.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	reg := piixPIRQA + PCPIRQ(5, 1)
	write(pc.ISA.ConfigWrite, reg, 1, 5)
	write(pc.ISA.ConfigWrite, reg, 1, 5)
	write(pc.ISA.ConfigWrite, reg, 1, 2) // the cascade, where nothing can be steered
	write(pc.ISA.ConfigWrite, reg, 1, 11)
	pc.Remove(f)
	write(pc.ISA.ConfigWrite, reg, 1, 7)
	if want := []int{int(PCPIRQLines[PCPIRQ(5, 1)]), 5, interrupt.NoPin, 11, interrupt.NoPin}; !slices.Equal(*told, want) {
		t.Errorf("pc: told %v, want %v", *told, want)
	}
}
