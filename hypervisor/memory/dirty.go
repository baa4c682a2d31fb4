package memory

import "sync/atomic"

// dirtyLog has one bitmap for each region, one bit a page.
type dirtyLog struct{ bits [][]atomic.Uint64 }

// StartDirtyLog begins to record the pages that the host writes. Recording starts empty.
func (m *Memory) StartDirtyLog() {
	log := &dirtyLog{bits: make([][]atomic.Uint64, len(m.regions))}
	for i := range m.regions {
		log.bits[i] = make([]atomic.Uint64, (m.regions[i].Size/PageSize+63)/64)
	}
	m.dirty.Store(log)
}

// StopDirtyLog ends recording and forgets what was recorded.
func (m *Memory) StopDirtyLog() { m.dirty.Store(nil) }

// MarkDirty records that the host wrote n bytes at gpa. It costs one load when nothing records. Addresses outside RAM are
// ignored.
func (m *Memory) MarkDirty(gpa, n uint64) {
	log := m.dirty.Load()
	if log == nil || n == 0 {
		return
	}
	for i := range m.regions {
		r := &m.regions[i]
		if gpa < r.GPA || gpa-r.GPA >= r.Size {
			continue
		}
		first, last := (gpa-r.GPA)/PageSize, (gpa-r.GPA+min(n, r.Size-(gpa-r.GPA))-1)/PageSize
		for page := first; page <= last; page++ {
			log.bits[i][page/64].Or(1 << (page % 64))
		}
	}
}

// TakeDirty returns the host-written pages of region i as a bitmap in KVM_GET_DIRTY_LOG's layout and clears them. It
// returns nil when nothing records.
func (m *Memory) TakeDirty(i int) []uint64 {
	log := m.dirty.Load()
	if log == nil {
		return nil
	}
	out := make([]uint64, len(log.bits[i]))
	for w := range log.bits[i] {
		out[w] = log.bits[i][w].Swap(0)
	}
	return out
}
