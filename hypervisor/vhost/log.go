package vhost

import (
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// StartLog makes the kernel record which pages of mem it writes, for saving or migrating a running machine. It may be
// called before or after Start. CollectLog passes the record on.
func (n *Net) StartLog(mem *memory.Memory) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.log != nil {
		return nil
	}
	regions := mem.Regions()
	last := regions[len(regions)-1]
	words := ((last.GPA+last.Size)/memory.PageSize + 63) / 64 // one bit a page, from address 0
	log, err := unix.Mmap(-1, 0, int(words*8), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map %d bytes for the dirty log of vhost-net: %w", words*8, err)
	}
	n.log = log
	base := address(log)
	if err = n.drv.word(n.fd, reqSetLogBase, &base); err == nil {
		err = n.relog()
	}
	if err != nil {
		n.dropLog()
		return fmt.Errorf("start the dirty log of vhost-net: %w", err)
	}
	return nil
}

// relog applies the presence or absence of the log to running rings.
func (n *Net) relog() error {
	r := n.run
	if r == nil {
		return nil
	}
	for i, q := range []*virtio.Queue{queueRX: r.RX, queueTX: r.TX} {
		if q == nil {
			continue
		}
		if err := n.setAddr(r, uint32(i), q); err != nil {
			return err
		}
	}
	return n.setFeatures(r)
}

// CollectLog marks the pages that the kernel wrote since the last call dirty in the memory of Start. Stop does it too.
func (n *Net) CollectLog() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run != nil {
		n.collect(n.run)
	}
}

func (n *Net) collect(r *running) {
	for w := range len(n.log) / 8 {
		word := takeWord(n.log, w)
		for word != 0 {
			page := uint64(w*64 + bits.TrailingZeros64(word))
			r.Memory.MarkDirty(page*memory.PageSize, memory.PageSize)
			word &= word - 1
		}
	}
}

// StopLog ends the recording.
func (n *Net) StopLog() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dropLog()
}

func (n *Net) dropLog() error {
	if n.log == nil {
		return nil
	}
	if n.run != nil {
		n.collect(n.run)
	}
	log := n.log
	n.log = nil
	if err := n.relog(); err != nil {
		// The kernel may still write there: keep the mapping rather than hand it to somebody else.
		return fmt.Errorf("stop the dirty log of vhost-net: %w", err)
	}
	return unix.Munmap(log)
}
