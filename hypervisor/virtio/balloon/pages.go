package balloon

import (
	"encoding/binary"
	"errors"
	"slices"

	"virtd/hypervisor/virtio"
)

// batch is how many page numbers are sorted at a time. Linux sends 256 in a request.
const batch = 1024

// inflateTurn gives the pages of the balloon back to the host.
func (d *Device) inflateTurn(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	return d.pageTurn(s, q, &d.inflate, d.take)
}

// deflateTurn notes pages that the guest uses again. They come back as zeroes when they are touched.
func (d *Device) deflateTurn(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	return d.pageTurn(s, q, &d.deflate, d.giveBack)
}

// pageTurn calls each with the merged ranges of RAM that requests name. Page numbers beyond RAM are skipped: the guest
// is wrong about its own memory, and no harm comes to anyone.
func (d *Device) pageTurn(s *virtio.Service, q *virtio.Queue, w *worker, each func(gpa, n uint64)) (virtio.Turn, error) {
	for !s.Stopping() {
		ok, err := q.Pop(&w.chain)
		if !ok || err != nil {
			return virtio.Turn{}, err
		}
		for off := uint64(0); !s.Stopping(); {
			n := w.chain.CopyIn(w.raw[:], off) / 4
			if n == 0 {
				break
			}
			for i := range n {
				w.pfns[i] = binary.LittleEndian.Uint32(w.raw[4*i:])
			}
			d.eachRange(w.pfns[:n], each)
			off += uint64(4 * n)
		}
		q.PushChain(&w.chain, 0)
	}
	return virtio.Turn{}, nil
}

// eachRange sorts the page numbers and calls f for each run of neighbours that is RAM.
func (d *Device) eachRange(pfns []uint32, f func(gpa, n uint64)) {
	slices.Sort(pfns)
	for i := 0; i < len(pfns); {
		first, next := uint64(pfns[i]), uint64(pfns[i])
		for ; i < len(pfns) && (uint64(pfns[i]) == next || uint64(pfns[i]) == next-1); i++ {
			if uint64(pfns[i]) == next {
				if !d.cfg.Memory.Contains(next*pageSize, pageSize) {
					break
				}
				next++
			}
		}
		if next == first { // not RAM
			i++
			continue
		}
		f(first*pageSize, (next-first)*pageSize)
	}
}

// take puts a range into the balloon.
func (d *Device) take(gpa, n uint64) {
	if d.cfg.HostPage == pageSize {
		d.discard(gpa, n)
		return
	}
	for ; n > 0; gpa, n = gpa+pageSize, n-pageSize {
		if d.held.add(gpa) {
			d.discard(gpa&^(d.cfg.HostPage-1), d.cfg.HostPage)
		}
	}
}

func (d *Device) giveBack(gpa, n uint64) {
	if d.cfg.HostPage == pageSize {
		return
	}
	for ; n > 0; gpa, n = gpa+pageSize, n-pageSize {
		d.held.remove(gpa)
	}
}

// discard gives memory back to the host. Where that is impossible (locked memory) the guest still has its balloon.
func (d *Device) discard(gpa, n uint64) {
	if d.inhibited.Load() {
		return
	}
	if err := d.cfg.Memory.Discard(gpa, n); err != nil && !d.warned.Swap(true) {
		d.cfg.Logf("balloon %s: memory stays with the guest: %v", d.cfg.Name, err)
	}
}

// reportTurn gives free pages back that the guest reports. With page poisoning the guest expects its pattern when it uses
// them again, and they stay.
func (d *Device) reportTurn(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	c := &d.report.chain
	for !s.Stopping() {
		ok, err := q.Pop(c)
		if !ok || err != nil {
			return virtio.Turn{}, err
		}
		if d.poison.Load() == 0 {
			c.EachWritable(func(gpa, n uint64) {
				page := d.cfg.HostPage
				first, end := (gpa+page-1)&^(page-1), (gpa+n)&^(page-1)
				if first < end {
					d.discard(first, end-first)
				}
			})
		}
		q.PushChain(c, 0)
	}
	return virtio.Turn{}, nil
}

// pagesHeld counts which parts of the host's large pages are in the balloon. Its size is bounded by RAM: one bit a page.
type pagesHeld struct {
	mu    lock
	host  uint64
	parts map[uint64][]uint64 // bits by address of the large page
}

func newPagesHeld(host uint64) pagesHeld { return pagesHeld{host: host, parts: map[uint64][]uint64{}} }

func (h *pagesHeld) locate(gpa uint64) (page uint64, bit int) {
	page = gpa &^ (h.host - 1)
	return page, int((gpa - page) / pageSize)
}

// add marks a page and reports whether the large page around it has just become complete.
func (h *pagesHeld) add(gpa uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	page, bit := h.locate(gpa)
	b := h.parts[page]
	if b == nil {
		b = make([]uint64, (h.host/pageSize+63)/64)
		h.parts[page] = b
	}
	if b[bit/64]>>(bit%64)&1 != 0 {
		return false
	}
	b[bit/64] |= 1 << (bit % 64)
	n := int(h.host / pageSize)
	for i := range b {
		if want := ^uint64(0); n >= 64 && b[i] != want || n < 64 && b[i] != want>>(64-n) {
			return false
		}
		n -= 64
	}
	return true
}

func (h *pagesHeld) remove(gpa uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	page, bit := h.locate(gpa)
	b := h.parts[page]
	if b == nil {
		return
	}
	b[bit/64] &^= 1 << (bit % 64)
	for _, w := range b {
		if w != 0 {
			return
		}
	}
	delete(h.parts, page)
}

func (h *pagesHeld) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.parts)
}

func (h *pagesHeld) save() map[uint64][]uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[uint64][]uint64, len(h.parts))
	for k, v := range h.parts {
		out[k] = slices.Clone(v)
	}
	return out
}

func (h *pagesHeld) restore(parts map[uint64][]uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := int((h.host/pageSize + 63) / 64)
	if h.host == pageSize && len(parts) != 0 {
		return errors.New("the state has large pages, the memory has not")
	}
	clear(h.parts)
	for k, v := range parts {
		if k%h.host != 0 || len(v) != want {
			return errors.New("the state has pages of another size")
		}
		h.parts[k] = slices.Clone(v)
	}
	return nil
}
