package blk

import "sync/atomic"

// Stats are counters since the device was made. Times are sums over requests, from the moment a request was taken from
// its queue to its completion.
type Stats struct {
	ReadBytes, ReadOps, ReadNs    uint64
	WriteBytes, WriteOps, WriteNs uint64 // write-zeroes included
	FlushOps, FlushNs             uint64
	DiscardBytes, DiscardOps      uint64
	Errors                        uint64 // requests answered with an error
}

// counters are those of one queue; its thread writes, anyone reads.
type counters struct {
	rdBytes, rdOps, rdNs atomic.Uint64
	wrBytes, wrOps, wrNs atomic.Uint64
	flOps, flNs          atomic.Uint64
	dcBytes, dcOps       atomic.Uint64
	errors               atomic.Uint64
}

func (c *counters) count(r *request, ns uint64) {
	n := uint64(r.op.Len)
	switch r.kind {
	case typeIn:
		c.rdBytes.Add(n)
		c.rdOps.Add(1)
		c.rdNs.Add(ns)
	case typeOut, typeWriteZeroes:
		c.wrBytes.Add(n)
		c.wrOps.Add(1)
		c.wrNs.Add(ns)
	case typeFlush:
		c.flOps.Add(1)
		c.flNs.Add(ns)
	case typeDiscard:
		c.dcBytes.Add(n)
		c.dcOps.Add(1)
	}
}

// Stats returns the sums over all queues.
func (d *Device) Stats() Stats {
	var s Stats
	for _, w := range d.workers {
		c := &w.counters
		s.ReadBytes += c.rdBytes.Load()
		s.ReadOps += c.rdOps.Load()
		s.ReadNs += c.rdNs.Load()
		s.WriteBytes += c.wrBytes.Load()
		s.WriteOps += c.wrOps.Load()
		s.WriteNs += c.wrNs.Load()
		s.FlushOps += c.flOps.Load()
		s.FlushNs += c.flNs.Load()
		s.DiscardBytes += c.dcBytes.Load()
		s.DiscardOps += c.dcOps.Load()
		s.Errors += c.errors.Load()
	}
	return s
}
