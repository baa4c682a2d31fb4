package pci

import "fmt"

// RootPortConfig describes a PCI Express root port.
type RootPortConfig struct {
	Index   uint8 // controller index that addresses of devices behind it use, 1 to 255
	Chassis uint8
	Port    uint8 // port number and physical slot number
	// Memory is how many bytes its 32-bit memory window has at least, for devices that come later; 0 is 2 MiB.
	Memory uint64
}

// rootPortIdentity is QEMU's generic root port: guests have its driver data, and tools show a familiar name.
var rootPortIdentity = Identity{Vendor: 0x1b36, Device: 0x000c, Class: 0x060400}

// AddRootPort puts a root port on the root bus. Devices go behind it with Add and its index as the bus.
func (r *Root) AddRootPort(a Address, c RootPortConfig) error {
	if a.Bus != 0 || c.Index == 0 {
		return fmt.Errorf("add root port %d at %v: root ports sit on bus 0 and have an index from 1", c.Index, a)
	}
	if r.bridges[c.Index] != nil {
		return fmt.Errorf("add root port %d at %v: the index is taken", c.Index, a)
	}
	b := newBridge(rootPortIdentity, c.Index)
	b.reserve = (c.Memory + memoryWindowAlign - 1) &^ (memoryWindowAlign - 1)
	b.f.AddSubsystem(rootPortIdentity.Vendor, 0)
	b.f.AddExpress(ExpressRootPort, c.Port)
	b.f.UseINTx(1)
	if err := r.Add(a, b.f); err != nil {
		return err
	}
	r.bridges[c.Index] = b
	return nil
}

// presenceChanged shows in the slot and link registers whether a device is there.
func (b *bridge) presenceChanged() {
	present := len(b.bus.all()) > 0
	f := b.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, reg := range []struct {
		at  int
		bit uint16
	}{{expSlotStatus, slotPresence}, {expLinkStatus, linkActive}} {
		v := f.space.u16(f.express+reg.at) &^ reg.bit
		if present {
			v |= reg.bit
		}
		f.space.put16(f.express+reg.at, v)
		copy(f.reset[f.express+reg.at:], f.space.data[f.express+reg.at:f.express+reg.at+2])
	}
}
