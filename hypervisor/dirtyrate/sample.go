package dirtyrate

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"runtime/debug"

	"virtd/hypervisor/memory"
)

// samples are pages and what they held.
type samples struct {
	seed maphash.Seed
	gpa  []uint64
	hash []uint64
}

// sample returns how many bytes of RAM changed, as far as samples tell.
func (m *Meter) sample(r *Result) (uint64, error) {
	s := pick(m.mem.Regions(), m.mem.Size(), r.SamplePages)
	if err := s.look(m, func(i int, hash uint64) { s.hash[i] = hash }); err != nil {
		return 0, err
	}
	if err := m.wait(r); err != nil {
		return 0, err
	}
	changed := uint64(0)
	if err := s.look(m, func(i int, hash uint64) {
		if hash != s.hash[i] {
			changed++
		}
	}); err != nil {
		return 0, err
	}
	return m.mem.Size() / uint64(len(s.gpa)) * changed, nil
}

// pick chooses pages at random, perGiB of each GiB and one at least: one out of each of as many equal parts of RAM, so that
// they are spread evenly and no page is chosen twice.
func pick(regions []memory.Region, size uint64, perGiB int) *samples {
	n := max(size*uint64(perGiB)>>30, 1)
	s := &samples{seed: maphash.MakeSeed(), gpa: make([]uint64, n), hash: make([]uint64, n)}
	pages := size / memory.PageSize
	region, before := 0, uint64(0) // before is how many pages the regions below have
	for i := range n {
		first := share(pages, i, n)
		page := first + rand.Uint64N(share(pages, i+1, n)-first)
		for page-before >= regions[region].Size/memory.PageSize {
			before += regions[region].Size / memory.PageSize
			region++
		}
		s.gpa[i] = regions[region].GPA + (page-before)*memory.PageSize
	}
	return s
}

// share is all*i/n, whose product may have more than 64 bits.
func share(all, i, n uint64) uint64 {
	hi, lo := bits.Mul64(all, i)
	q, _ := bits.Div64(hi, lo, n)
	return q
}

// lookTogether is how many pages are hashed between two looks at whether to go on.
const lookTogether = 4096

// look passes on the hash of each page as it is now. A page that the host cannot give, because a pool of huge pages is empty
// or the hardware lost it, is an error: reading it would end the engine and with it the guest.
func (s *samples) look(m *Meter, f func(i int, hash uint64)) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("look at the pages of guest memory: %v", p)
		}
	}()
	for i, gpa := range s.gpa {
		if i%lookTogether == 0 {
			select {
			case <-m.closed:
				return errEnded
			default:
			}
		}
		page, err := m.mem.Slice(gpa, memory.PageSize)
		if err != nil {
			return err
		}
		f(i, maphash.Bytes(s.seed, page))
	}
	return nil
}
