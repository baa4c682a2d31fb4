package virtio

import (
	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// MaxChain is the largest number of host memory pieces in one chain, Linux's IOV_MAX, so that a chain is always one
// preadv or writev. A driver makes no chain longer than its queue (virtio 1.2, 2.7.5.3.1), and device types with large
// queues limit their segments far below.
const MaxChain = 1024

// Chain is one descriptor chain taken from a queue: what the driver wants the device to read, then what it may write. A
// Chain is reused for many requests, so that a request needs no allocation; its zero value is ready.
//
// The iovecs point into guest memory: the guest may change the bytes at any time, so a header is copied before it is
// looked at. They stay valid until the device's Reset or Quiesce returns.
type Chain struct {
	// Head is what the driver knows the chain by: its first descriptor, with a packed ring the identifier of its buffer.
	Head uint16

	// Read and Write are the device-readable and device-writable pieces in order. The owner may Advance or Truncate
	// them, or replace them by parts of themselves.
	Read, Write []unix.Iovec
	// ReadLen and WriteLen are the bytes in Read and Write when the chain was taken.
	ReadLen, WriteLen uint64

	read, write []unix.Iovec // the backing of Read and Write, kept when those are cut
	spans       []span       // guest addresses of Write, for dirty tracking
	mem         *memory.Memory
	slots       uint16 // descriptors of a packed ring that it takes up
}

// span is a piece of guest memory.
type span struct {
	gpa uint64
	len uint32
}

// reset empties c for a chain of mem.
func (c *Chain) reset(mem *memory.Memory, head uint16) {
	c.Head, c.mem = head, mem
	c.read, c.write, c.spans = c.read[:0], c.write[:0], c.spans[:0]
	c.ReadLen, c.WriteLen = 0, 0
	c.Read, c.Write = nil, nil
}

// add appends the memory of one descriptor. It reports false when the chain has too many pieces.
func (c *Chain) add(d descriptor) (bool, error) {
	var err error
	if d.flags&descWrite != 0 {
		if c.write, err = c.mem.AppendIovecs(c.write, d.addr, uint64(d.len)); err == nil && d.len > 0 {
			c.spans = append(c.spans, span{d.addr, d.len})
		}
		c.WriteLen += uint64(d.len)
	} else {
		c.read, err = c.mem.AppendIovecs(c.read, d.addr, uint64(d.len))
		c.ReadLen += uint64(d.len)
	}
	return len(c.read)+len(c.write) <= MaxChain, err
}

// MarkDirty records that the device wrote the first n bytes of the device-writable part. Queue.PushChain does it.
func (c *Chain) MarkDirty(n uint64) { c.MarkDirtyRange(0, n) }

// MarkDirtyRange records that the device wrote n bytes that start off bytes into the device-writable part.
func (c *Chain) MarkDirtyRange(off, n uint64) {
	for i := range c.spans {
		s := &c.spans[i]
		if off >= uint64(s.len) {
			off -= uint64(s.len)
			continue
		}
		piece := min(uint64(s.len)-off, n)
		c.mem.MarkDirty(s.gpa+off, piece)
		if n -= piece; n == 0 {
			return
		}
		off = 0
	}
}

// EachWritable calls f with the guest address and length of each device-writable buffer, as they were when the chain was
// taken. The free page reports of a balloon are such buffers.
func (c *Chain) EachWritable(f func(gpa, n uint64)) {
	for _, s := range c.spans {
		f(s.gpa, uint64(s.len))
	}
}

// CopyIn copies from Read, off bytes into what is left of it, to p and returns how many bytes there were.
func (c *Chain) CopyIn(p []byte, off uint64) int { return CopyFrom(p, c.Read, off) }

// CopyOut copies p to Write, off bytes into what is left of it, and returns how many bytes fitted. The pages become dirty
// with PushChain or MarkDirty.
func (c *Chain) CopyOut(off uint64, p []byte) int { return CopyTo(c.Write, off, p) }
