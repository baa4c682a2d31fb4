package net

import (
	"encoding/binary"

	"virtd/hypervisor/virtio"
)

// maxTable is how many addresses of each kind the device keeps for its host; a driver may give more, which then counts as
// wanting all.
const maxTable = 64

// Filter is what the driver wants to receive (virtio 1.2, 5.1.6.5.1 and 5.1.6.5.2). The device passes on whatever reaches its
// tap; a host that delivers less than everything, as a macvtap does, goes by this.
type Filter struct {
	MAC          [6]byte
	Promiscuous  bool
	AllMulticast bool
	AllUnicast   bool
	NoMulticast  bool
	NoUnicast    bool
	NoBroadcast  bool
	// Unicast and Multicast are at most 64 addresses each; an overflow says that the driver gave more.
	Unicast, Multicast                 [][6]byte
	UnicastOverflow, MulticastOverflow bool
}

// filter is the driver's choice, kept under Device.mu. A device that nobody has told anything receives all.
type filter struct {
	modes [rxLast + 1]bool // by command of classRx

	unicast, multicast                 [maxTable][6]byte
	unicastN, multicastN               int
	unicastOverflow, multicastOverflow bool
}

// Commands of classRx.
const (
	rxPromiscuous  = 0
	rxAllMulticast = 1
	rxAllUnicast   = 2
	rxNoMulticast  = 3
	rxNoUnicast    = 4
	rxNoBroadcast  = 5
)

// newFilter is what a device has before its driver says anything.
func newFilter() filter { return filter{modes: [rxLast + 1]bool{rxPromiscuous: true}} }

// RxFilter returns what the driver wants to receive now, and lets Config.RxFilterChanged be called for the next change. Safe
// for concurrent use.
func (d *Device) RxFilter() Filter {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.filterAsked = true
	f := &d.filter
	return Filter{
		MAC: d.mac, Promiscuous: f.modes[rxPromiscuous], AllMulticast: f.modes[rxAllMulticast], AllUnicast: f.modes[rxAllUnicast],
		NoMulticast: f.modes[rxNoMulticast], NoUnicast: f.modes[rxNoUnicast], NoBroadcast: f.modes[rxNoBroadcast],
		Unicast: append([][6]byte(nil), f.unicast[:f.unicastN]...), Multicast: append([][6]byte(nil), f.multicast[:f.multicastN]...),
		UnicastOverflow: f.unicastOverflow, MulticastOverflow: f.multicastOverflow,
	}
}

// changeFilter runs a change of the filter or the address and tells the host, once until it asks: a guest may change them
// many thousand times a second. The caller holds mu.
func (d *Device) changeFilter(change func()) {
	was, mac := d.filter, d.mac
	change()
	if (was != d.filter || mac != d.mac) && d.filterAsked && d.cfg.RxFilterChanged != nil {
		d.filterAsked = false
		d.cfg.RxFilterChanged()
	}
}

// setMode executes a command of classRx.
func (d *Device) setMode(cmd byte, c *virtio.Chain) {
	var on [1]byte
	c.CopyIn(on[:], controlHdrSize)
	d.changeFilter(func() { d.filter.modes[cmd] = on[0] != 0 })
}

// setTables executes VIRTIO_NET_CTRL_MAC_TABLE_SET: two tables of struct virtio_net_ctrl_mac, unicast and multicast. It reports
// whether they are whole.
func (d *Device) setTables(c *virtio.Chain) bool {
	var n [2]uint64
	var at [2]uint64
	off := uint64(controlHdrSize)
	for i := range n {
		var b [4]byte
		if c.CopyIn(b[:], off) != len(b) {
			return false
		}
		n[i], at[i] = uint64(binary.LittleEndian.Uint32(b[:])), off+4
		if off = at[i] + 6*n[i]; off > c.ReadLen {
			return false
		}
	}
	d.changeFilter(func() {
		f := &d.filter
		f.unicastN, f.unicastOverflow = readTable(c, at[0], n[0], &f.unicast)
		f.multicastN, f.multicastOverflow = readTable(c, at[1], n[1], &f.multicast)
	})
	return true
}

func readTable(c *virtio.Chain, at, n uint64, into *[maxTable][6]byte) (kept int, overflow bool) {
	*into = [maxTable][6]byte{}
	if n > maxTable {
		return 0, true
	}
	for i := range int(n) {
		c.CopyIn(into[i][:], at+6*uint64(i))
	}
	return int(n), false
}

// restore is the filter that RxFilter returned. A saved state is not trusted: what does not fit is an overflow.
func (s *Filter) restore() filter {
	f := filter{
		modes: [rxLast + 1]bool{
			rxPromiscuous: s.Promiscuous, rxAllMulticast: s.AllMulticast, rxAllUnicast: s.AllUnicast,
			rxNoMulticast: s.NoMulticast, rxNoUnicast: s.NoUnicast, rxNoBroadcast: s.NoBroadcast,
		},
		unicastOverflow: s.UnicastOverflow || len(s.Unicast) > maxTable, multicastOverflow: s.MulticastOverflow || len(s.Multicast) > maxTable,
	}
	if !f.unicastOverflow {
		f.unicastN = copy(f.unicast[:], s.Unicast)
	}
	if !f.multicastOverflow {
		f.multicastN = copy(f.multicast[:], s.Multicast)
	}
	return f
}
