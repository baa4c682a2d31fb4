package blk

import (
	"sync/atomic"
	"time"

	"virtd/hypervisor/block"
)

// How often errors of the image are logged and told at most: a guest repeats what fails.
const (
	logEvery  = 10 * time.Second
	tellEvery = time.Second
)

// pace lets something happen now and then. The zero value lets it happen at once.
type pace struct{ last atomic.Int64 } // ns after the device's start

// allow reports whether it may happen now, and is the last time if so. Of several threads one is told so.
func (p *pace) allow(now, every time.Duration) bool {
	last := p.last.Load()
	return (last == 0 || now-time.Duration(last) >= every) && p.last.CompareAndSwap(last, int64(max(now, 1)))
}

var opNames = map[block.Code]string{block.Read: "read", block.Write: "write", block.Flush: "flush", block.Discard: "discard",
	block.WriteZeroes: "write zeroes"}

// report tells what the host said to a request that the guest had every right to make.
func (d *Device) report(op *block.Op) {
	now := time.Since(d.started)
	if d.told.allow(now, tellEvery) {
		d.cfg.Failed(op.Code != block.Read, op.Err)
	}
	if d.logged.allow(now, logEvery) {
		d.cfg.Logf("disk %s: %s of %d bytes at %d: %v (the guest sees an I/O error)", d.cfg.Name, opNames[op.Code], op.Len, op.Off, op.Err)
	}
}
