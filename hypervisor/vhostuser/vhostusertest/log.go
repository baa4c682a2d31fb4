package vhostusertest

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// setLogBase maps the log of the front end.
func (b *Backend) setLogBase(payload []byte, fds []int) error {
	size := binary.LittleEndian.Uint64(payload)
	host, err := unix.Mmap(fds[0], int64(binary.LittleEndian.Uint64(payload[8:])), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	unix.Close(fds[0])
	if err != nil {
		return err
	}
	b.logs = append(b.logs, host)
	b.log.Store(&host)
	return nil
}

// logWrites begins or ends to remember what is written, as the features say.
func (b *Backend) logWrites() {
	switch {
	case b.mem == nil:
	case b.accepted&FeatureLogAll != 0:
		b.mem.StartDirtyLog()
	default:
		b.mem.StopDirtyLog()
	}
}

// noteWrites puts what was written since the last call into the front end's log, if it wants to know.
func (b *Backend) noteWrites(mem *memory.Memory) {
	log := b.log.Load()
	if log == nil {
		return
	}
	for i, r := range mem.Regions() {
		for w, word := range mem.TakeDirty(i) {
			for ; word != 0; word &= word - 1 {
				page := int(r.GPA/memory.PageSize) + w*64 + bits.TrailingZeros64(word)
				noteBits(*log, page/64, 1<<(page%64))
			}
		}
	}
}
