package net

import "sync/atomic"

// Stats counts packets from the guest's point of view since the device was made. Bytes are those of frames without the
// virtio header. A vhost device counts nothing: its packets never come by here.
type Stats struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// counters are one worker's Stats, written once for each batch.
type counters struct {
	rxBytes, rxPackets, rxErrors, rxDropped atomic.Uint64
	txBytes, txPackets, txErrors, txDropped atomic.Uint64
}

func (c *counters) addRx(s *Stats) {
	c.rxBytes.Add(s.RxBytes)
	c.rxPackets.Add(s.RxPackets)
	c.rxErrors.Add(s.RxErrors)
	c.rxDropped.Add(s.RxDropped)
}

func (c *counters) addTx(s *Stats) {
	c.txBytes.Add(s.TxBytes)
	c.txPackets.Add(s.TxPackets)
	c.txErrors.Add(s.TxErrors)
	c.txDropped.Add(s.TxDropped)
}

// Stats sums all queues. Safe for concurrent use.
func (d *Device) Stats() Stats {
	var s Stats
	for i := range d.counters {
		c := &d.counters[i]
		s.RxBytes += c.rxBytes.Load()
		s.RxPackets += c.rxPackets.Load()
		s.RxErrors += c.rxErrors.Load()
		s.RxDropped += c.rxDropped.Load()
		s.TxBytes += c.txBytes.Load()
		s.TxPackets += c.txPackets.Load()
		s.TxErrors += c.txErrors.Load()
		s.TxDropped += c.txDropped.Load()
	}
	return s
}
