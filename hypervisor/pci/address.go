package pci

import "fmt"

// Address says where a function sits. Bus is the index of the controller in the machine's configuration (0 is the root
// bus, any other the root port of that index), not the bus number that the guest programs.
type Address struct {
	Bus      uint8
	Slot     uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// String returns the address as bus:slot.function in hexadecimal.
func (a Address) String() string { return fmt.Sprintf("%02x:%02x.%x", a.Bus, a.Slot, a.Function) }

func (a Address) devfn() uint8 { return a.Slot<<3 | a.Function }

// Identity is what tells drivers which device they found (PCI 3.0, 6.2.1 and 6.2.4).
type Identity struct {
	Vendor, Device       uint16
	Revision             uint8
	Class                uint32 // class, subclass and programming interface, 24 bits
	SubVendor, SubDevice uint16 // type 0 headers only
}

// Range is a piece of an address space.
type Range struct{ Base, Size uint64 }

// Last returns the last address of a range that is not empty.
func (r Range) Last() uint64 { return r.Base + (r.Size - 1) }

func (r Range) overlaps(base, size uint64) bool {
	return r.Size != 0 && size != 0 && base <= r.Last() && r.Base <= base+(size-1)
}

func (r Range) contains(base, size uint64) bool {
	return size != 0 && size <= r.Size && base >= r.Base && base-r.Base <= r.Size-size
}
