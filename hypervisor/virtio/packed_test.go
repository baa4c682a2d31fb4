package virtio_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

const packed = virtio.FeatureRingPacked

// model is what a driver and a device of a packed ring agree on, in numbers that do not wrap.
type model struct {
	t        *testing.T
	rng      *rand.Rand
	r        *virtiotest.Ring
	q        *virtio.Queue
	eventIdx bool

	offered  []modelChain // made available and not taken
	taken    []*modelChain
	used     []virtiotest.Used // given back and not collected
	staged   int               // of these not published
	lastIn   *modelChain       // the last of taken, if nothing was given back since
	usedAt   int               // descriptors given back
	seenAt   int               // descriptors collected
	notified int               // usedAt at the last Notify
	slots    []int             // of each in used
	table    uint64            // indirect tables made
}

type modelChain struct {
	id          uint16
	slots       int
	read, write []virtiotest.Buf
	chain       virtio.Chain
}

// TestPackedModel does what drivers and devices may do, in random order, and compares with the model: chains come in order
// and whole, go back in any order, appear when they are published, and interrupts come exactly when the driver's event was
// passed.
func TestPackedModel(t *testing.T) {
	for _, size := range []uint16{1, 2, 7, 64, 1000} {
		for _, features := range []uint64{0, virtio.FeatureEventIdx} {
			t.Run(fmt.Sprintf("size %d, features %#x", size, features), func(t *testing.T) {
				r, q := newRing(t, size, packed|features|virtio.FeatureIndirectDesc)
				m := &model{t: t, rng: rand.New(rand.NewPCG(uint64(size), features)), r: r, q: q, eventIdx: features != 0}
				for range 20000 {
					m.step()
				}
				if m.usedAt < 3*int(size) {
					t.Errorf("%d descriptors do not go round a ring of %d often enough", m.usedAt, size)
				}
			})
		}
	}
}

func (m *model) step() {
	switch m.rng.IntN(8) {
	case 0, 1:
		m.add()
	case 2, 3:
		m.pop()
	case 4:
		m.stage()
	case 5:
		m.q.Publish()
		m.staged = 0
		m.notify()
	case 6:
		m.collect()
	case 7:
		m.unpop()
		m.move()
	}
}

// bufs are n buffers whose addresses and lengths tell them apart.
func (m *model) bufs(n int) (c modelChain) {
	for i := range n {
		b := virtiotest.Buf{GPA: bufAt + 64*uint64(m.rng.IntN(1000)), Len: uint32(1 + m.rng.IntN(60)), Write: i >= n/2}
		if b.Write {
			c.write = append(c.write, b)
		} else {
			c.read = append(c.read, b)
		}
	}
	return c
}

func (m *model) add() {
	if m.r.Room() == 0 {
		return
	}
	n := 1 + m.rng.IntN(min(m.r.Room(), 5))
	indirect := m.rng.IntN(3) == 0
	if indirect {
		n = 1 + m.rng.IntN(10)
	}
	c := m.bufs(n)
	all := slices.Concat(c.read, c.write)
	if c.slots = n; indirect {
		c.slots = 1
		m.table++
		c.id = m.r.AddIndirect(0x80000+m.table%1024*256, all...) // more tables than the largest ring has descriptors
	} else {
		c.id = m.r.Add(all...)
	}
	m.offered = append(m.offered, c)
}

func (m *model) pop() {
	if m.q.Pending() != (len(m.offered) > 0) {
		m.t.Fatalf("Pending is %v with %d chains offered", m.q.Pending(), len(m.offered))
	}
	c := &modelChain{}
	ok, err := m.q.Pop(&c.chain)
	if err != nil || ok != (len(m.offered) > 0) {
		m.t.Fatalf("Pop = %v, %v with %d chains offered", ok, err, len(m.offered))
	}
	if !ok {
		return
	}
	want := m.offered[0]
	m.offered = m.offered[1:]
	c.id, c.slots, c.read, c.write = want.id, want.slots, want.read, want.write
	if c.chain.Head != want.id || c.chain.ReadLen != length(want.read) || c.chain.WriteLen != length(want.write) ||
		len(c.chain.Read) != len(want.read) || len(c.chain.Write) != len(want.write) {
		m.t.Fatalf("took chain %d with %d and %d bytes, want %+v", c.chain.Head, c.chain.ReadLen, c.chain.WriteLen, want)
	}
	i := 0
	c.chain.EachWritable(func(gpa, _ uint64) {
		if gpa != want.write[i].GPA {
			m.t.Fatalf("buffer %d is at %#x, want %#x", i, gpa, want.write[i].GPA)
		}
		i++
	})
	m.taken, m.lastIn = append(m.taken, c), c
}

func length(bufs []virtiotest.Buf) (n uint64) {
	for _, b := range bufs {
		n += uint64(b.Len)
	}
	return n
}

func (m *model) stage() {
	if len(m.taken) == 0 {
		return
	}
	i := m.rng.IntN(len(m.taken))
	c := m.taken[i]
	written := uint32(0)
	if c.chain.WriteLen > 0 && m.rng.IntN(4) > 0 {
		written = uint32(1 + m.rng.Uint64N(c.chain.WriteLen))
	}
	m.q.Stage(&c.chain, written)
	m.taken, m.lastIn = slices.Delete(m.taken, i, i+1), nil
	m.used, m.slots = append(m.used, virtiotest.Used{ID: uint32(c.id), Len: written}), append(m.slots, c.slots)
	m.usedAt += c.slots
	m.staged++
	if m.q.InFlight() != len(m.taken) {
		m.t.Fatalf("%d in flight, want %d", m.q.InFlight(), len(m.taken))
	}
}

func (m *model) notify() {
	event := m.seenAt + m.rng.IntN(int(m.r.Size))
	want := m.usedAt > m.notified
	switch kind := m.rng.IntN(4); {
	case kind == 0:
		m.r.SetDriverEvent(uint16(m.rng.UintN(1<<16)), virtiotest.EventDisable)
		want = false
	case kind == 1 || !m.eventIdx:
		m.r.SetDriverEvent(uint16(m.rng.UintN(1<<16)), virtiotest.EventEnable)
	default:
		word := event % int(m.r.Size)
		if event/int(m.r.Size)%2 == 0 { // the counter is 1 in the first round
			word |= 1 << 15
		}
		m.r.SetDriverEvent(uint16(word), virtiotest.EventDesc)
		want = m.notified <= event && event < m.usedAt
	}
	m.q.Notify()
	if got := m.r.Interrupts() == 1; got != want {
		m.t.Fatalf("interrupt %v, want %v: notified at %d, used %d, event %d", got, want, m.notified, m.usedAt, event)
	}
	m.notified = m.usedAt
}

func (m *model) collect() {
	for {
		visible := len(m.used) - m.staged
		u, ok := m.r.Collect()
		if ok != (visible > 0) {
			m.t.Fatalf("collected %v with %d used", ok, visible)
		}
		if !ok {
			return
		}
		if u != m.used[0] {
			m.t.Fatalf("used %v, want %v", u, m.used[0])
		}
		m.seenAt += m.slots[0]
		m.used, m.slots = m.used[1:], m.slots[1:]
	}
}

// unpop gives the chain that was taken last back, if it may.
func (m *model) unpop() {
	if m.lastIn == nil {
		return
	}
	m.q.Unpop(&m.lastIn.chain)
	m.offered = slices.Insert(m.offered, 0, *m.lastIn)
	m.taken, m.lastIn = m.taken[:len(m.taken)-1], nil
}

// move hands the ring to another owner, which may not know what was notified.
func (m *model) move() {
	if len(m.taken) > 0 || m.staged > 0 {
		return
	}
	m.notify()
	next := m.r.Queue(m.t)
	next.SetBase(m.q.Base())
	if next.Base() != m.q.Base() {
		m.t.Fatalf("base %#x became %#x", m.q.Base(), next.Base())
	}
	m.q, m.notified = next, m.usedAt-int(m.r.Size)
}

// TestPackedHostile has what a driver can get wrong in a chain. Each must end in ErrMalformed, and stay so.
func TestPackedHostile(t *testing.T) {
	const A, N, W, I = virtiotest.Avail, virtiotest.Next, virtiotest.Write, virtiotest.Indirect
	for _, c := range []struct {
		name  string
		setup func(r *virtiotest.Ring)
		want  string
	}{
		{"chain longer than the ring", func(r *virtiotest.Ring) {
			for i := range uint16(8) {
				r.SetPacked(i, bufAt, 1, 0, A|N)
			}
		}, "descriptor 0 is not available"},
		{"rest of the chain not available", func(r *virtiotest.Ring) { r.SetPacked(0, bufAt, 1, 0, A|N) }, "descriptor 1 is not available"},
		{"rest of the chain of the next round", func(r *virtiotest.Ring) {
			r.SetPacked(0, bufAt, 1, 0, A|N)
			r.SetPacked(1, bufAt, 1, 0, virtiotest.Done)
		}, "descriptor 1 is not available"},
		{"rest of the chain used", func(r *virtiotest.Ring) {
			r.SetPacked(0, bufAt, 1, 0, A|N)
			r.SetPacked(1, bufAt, 1, 0, A|virtiotest.Done)
		}, "descriptor 1 is not available"},
		{"indirect and next", func(r *virtiotest.Ring) { r.SetPacked(0, tblAt, 16, 0, A|I|N) }, "indirect"},
		{"indirect at the end of a chain", func(r *virtiotest.Ring) {
			r.SetPacked(1, tblAt, 16, 0, A|I)
			r.SetPacked(0, bufAt, 1, 0, A|N)
		}, "part of a chain"},
		{"indirect length 0", func(r *virtiotest.Ring) { r.SetPacked(0, tblAt, 0, 0, A|I) }, "0 bytes"},
		{"indirect length 17", func(r *virtiotest.Ring) { r.SetPacked(0, tblAt, 17, 0, A|I) }, "17 bytes"},
		{"indirect too long", func(r *virtiotest.Ring) { r.SetPacked(0, tblAt, 16*1025, 0, A|I) }, "bytes"},
		{"indirect length 2^32-16", func(r *virtiotest.Ring) { r.SetPacked(0, tblAt, 0xfffffff0, 0, A|I) }, "bytes"},
		{"indirect outside RAM", func(r *virtiotest.Ring) { r.SetPacked(0, 0xd0000000, 16, 0, A|I) }, "outside"},
		{"indirect wraps", func(r *virtiotest.Ring) { r.SetPacked(0, ^uint64(0)-15, 32, 0, A|I) }, "outside"},
		{"indirect runs out of RAM", func(r *virtiotest.Ring) {
			r.PutPacked(1<<20-16, bufAt, 1, 0, 0)
			r.SetPacked(0, 1<<20-16, 32, 0, A|I)
		}, "outside"},
		{"readable after writable", func(r *virtiotest.Ring) {
			r.Add(virtiotest.Buf{GPA: bufAt, Len: 1, Write: true}, virtiotest.Buf{GPA: bufAt, Len: 1})
		}, "device-readable after"},
		{"readable after writable in a table", func(r *virtiotest.Ring) {
			r.AddIndirect(tblAt, virtiotest.Buf{GPA: bufAt, Len: 1, Write: true}, virtiotest.Buf{GPA: bufAt, Len: 1})
		}, "device-readable after"},
		{"address wraps", func(r *virtiotest.Ring) { r.SetPacked(0, ^uint64(0)-4, 16, 0, A|W) }, "outside"},
		{"in the MMIO hole", func(r *virtiotest.Ring) { r.SetPacked(0, 0xfee00000, 16, 0, A|W) }, "outside"},
		{"over the end of RAM", func(r *virtiotest.Ring) { r.SetPacked(0, 1<<20-8, 16, 0, A|W) }, "outside"},
		{"length 2^32-1", func(r *virtiotest.Ring) { r.SetPacked(0, bufAt, 0xffffffff, 0, A) }, "outside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, q := newRing(t, 8, packed|virtio.FeatureIndirectDesc)
			c.setup(r)
			var chain virtio.Chain
			ok, err := q.Pop(&chain)
			if ok || !errors.Is(err, virtio.ErrMalformed) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Pop = %v, %v; want an error with %q", ok, err, c.want)
			}
			if _, again := q.Pop(&chain); again != err || q.Err() != err {
				t.Errorf("the queue recovered: %v", again)
			}
		})
	}
	t.Run("indirect not negotiated", func(t *testing.T) {
		r, q := newRing(t, 8, packed)
		r.SetPacked(0, tblAt, 16, 0, A|I)
		var chain virtio.Chain
		if _, err := q.Pop(&chain); !errors.Is(err, virtio.ErrMalformed) {
			t.Errorf("Pop: %v", err)
		}
	})
}

// TestPackedIgnores: what the specification tells the device to ignore or leaves to the driver does no harm: reserved flags,
// those of descriptors in an indirect table, any identifier, events that are nowhere.
func TestPackedIgnores(t *testing.T) {
	r, q := newRing(t, 8, packed|virtio.FeatureIndirectDesc|virtio.FeatureEventIdx)
	const A, I, W = virtiotest.Avail, virtiotest.Indirect, virtiotest.Write
	r.PutPacked(tblAt, bufAt, 3, 7, 0xffff&^W)
	r.PutPacked(tblAt+16, bufAt+0x100, 5, 9, 0xffff)
	r.SetPacked(0, tblAt, 32, 0xfffe, A|I|W|0x7f78)
	var c virtio.Chain
	pop(t, q, &c)
	if c.Head != 0xfffe || c.ReadLen != 3 || c.WriteLen != 5 {
		t.Errorf("took %d with %d and %d bytes", c.Head, c.ReadLen, c.WriteLen)
	}
	r.SetDriverEvent(0x7fff, 3)
	q.Push(&c, 5)
	q.Notify()
	if r.Interrupts() != 1 {
		t.Error("no interrupt with reserved event flags")
	}
	w, _ := r.Mem.LoadUint32(r.Desc + 12)
	if want := uint32(0xfffe) | (A|virtiotest.Done|W)<<16; w != want {
		t.Errorf("used descriptor %#x, want %#x", w, want)
	}
	for i, event := range []uint16{0x7fff, 0xffff, 8, 0x8008} {
		r.SetPacked(uint16(i+1), bufAt, 1, 0, A)
		pop(t, q, &c)
		r.SetDriverEvent(event, virtiotest.EventDesc)
		q.Push(&c, 0)
		q.Notify()
	}
}

// TestPackedSameAgain: a driver that makes descriptors available that it did not get back, by changing its wrap counter,
// never has more in flight than the ring has.
func TestPackedSameAgain(t *testing.T) {
	r, q := newRing(t, 4, packed)
	var c virtio.Chain
	for i := range uint16(4) {
		r.SetPacked(i, bufAt, 1, 0, virtiotest.Avail)
		pop(t, q, &c)
	}
	r.SetPacked(0, bufAt, 1, 0, virtiotest.Done)
	if _, err := q.Pop(&c); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("fifth descriptor in flight on a ring of four: %v", err)
	}
}

func TestPackedBase(t *testing.T) {
	for _, c := range []struct {
		base uint32
		ok   bool
	}{
		{0x80008000, true}, {0x00000000, true}, {0x80038003, true}, {0x80018003, true}, {0x80030001, true}, {0x80038004, false},
		{0x80048003, false}, {0x80038001, false}, {0x80010003, false}, {0xffffffff, false}, {0x00008000, true}, {0x80000000, true},
	} {
		_, q := newRing(t, 4, packed)
		q.SetBase(c.base)
		if (q.Err() == nil) != c.ok {
			t.Errorf("base %#x: %v", c.base, q.Err())
		}
	}
}

// TestPackedConfig: the parts have the alignment of the specification and lie in RAM; sizes need not be powers of two.
func TestPackedConfig(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	good := virtio.QueueConfig{Size: 24, Desc: 0x1000, Avail: 0x2004, Used: 0x2008, KickFD: -1, CallFD: -1, Features: packed}
	for _, c := range []struct {
		name string
		edit func(c *virtio.QueueConfig)
		ok   bool
	}{
		{"as it should be", func(*virtio.QueueConfig) {}, true},
		{"largest", func(c *virtio.QueueConfig) { c.Size = 32768 }, true},
		{"size 0", func(c *virtio.QueueConfig) { c.Size = 0 }, false},
		{"too large", func(c *virtio.QueueConfig) { c.Size = 32769 }, false},
		{"ring at 8", func(c *virtio.QueueConfig) { c.Desc = 8 }, false},
		{"driver event at 2", func(c *virtio.QueueConfig) { c.Avail += 2 }, false},
		{"device event at 2", func(c *virtio.QueueConfig) { c.Used += 2 }, false},
		{"ring over the end", func(c *virtio.QueueConfig) { c.Desc = 1<<20 - 16*23 }, false},
		{"ring up to the end", func(c *virtio.QueueConfig) { c.Desc = 1<<20 - 16*24 }, true},
		{"driver event outside", func(c *virtio.QueueConfig) { c.Avail = 1 << 20 }, false},
		{"device event at the top", func(c *virtio.QueueConfig) { c.Used = ^uint64(3) }, false},
	} {
		cfg := good
		c.edit(&cfg)
		_, err := virtio.NewQueue(mem, cfg)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, virtio.ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestPackedDirty(t *testing.T) {
	r, q := newRing(t, 512, packed) // two pages of descriptors, then the events
	for range 300 {
		r.Add(virtiotest.Buf{GPA: 0x20000, Len: 4, Write: true})
	}
	chains := make([]virtio.Chain, 300)
	for i := range chains {
		pop(t, q, &chains[i])
	}
	r.Mem.StartDirtyLog()
	for i := range chains {
		q.Stage(&chains[i], 0)
	}
	chains[0].MarkDirty(4)
	q.Publish()
	q.DisableKicks()
	got := r.Mem.TakeDirty(0)
	want := map[int]bool{0x20: true, 1: true, 2: true, 3: true}
	for page := range 0x100 {
		if dirty := got[page/64]>>(page%64)&1 != 0; dirty != want[page] {
			t.Errorf("page %#x dirty = %v", page, dirty)
		}
	}
}

func TestPackedDoesNotAllocate(t *testing.T) {
	r, q := newRing(t, 8, packed|virtio.FeatureEventIdx|virtio.FeatureIndirectDesc)
	var c virtio.Chain
	at, wrap := uint16(0), true
	available := func(flags uint16) (slot, all uint16) {
		slot, all = at, flags|virtiotest.Done
		if wrap {
			all = flags | virtiotest.Avail
		}
		if at++; at == 8 {
			at, wrap = 0, !wrap
		}
		return slot, all
	}
	round := func() {
		for _, flags := range []uint16{virtiotest.Next, virtiotest.Write} {
			slot, all := available(flags)
			r.SetPacked(slot, bufAt+uint64(flags)<<8, 16, 5, all)
		}
		q.DisableKicks()
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		q.PushChain(&c, 16)
		q.Notify()
		q.EnableKicks()
	}
	round()
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

// FuzzPacked puts random bytes where a packed ring and its buffers are, takes chains, lets the driver write more at random
// places in between, and gives them back in another order.
func FuzzPacked(f *testing.F) {
	desc := func(flags uint16) []byte {
		return []byte{0, 0x10, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, byte(flags), byte(flags >> 8)}
	}
	f.Add(uint16(8), uint16(0), uint16(0x80), uint16(0x84), uint32(0x80008000), desc(virtiotest.Avail|virtiotest.Write))
	f.Add(uint16(7), uint16(0x1000), uint16(0x80), uint16(0x84), uint32(0x80008000), desc(virtiotest.Avail|virtiotest.Indirect))
	f.Add(uint16(8), uint16(0), uint16(0x80), uint16(0x84), uint32(0x00030003), append(desc(virtiotest.Done|virtiotest.Next), desc(virtiotest.Done)...))
	f.Add(uint16(0x8000), uint16(0), uint16(0), uint16(0), uint32(0x80018000), []byte{0xff})
	f.Fuzz(func(t *testing.T, size, desc, driver, device uint16, base uint32, content []byte) {
		mem := virtiotest.NewMemory(t, 64<<10)
		for at := 0; at+len(content) < 64<<10 && len(content) > 0; at += len(content) {
			mem.WriteAt(content, uint64(at))
		}
		q, err := virtio.NewQueue(mem, virtio.QueueConfig{
			Size: size, Desc: uint64(desc), Avail: uint64(driver), Used: uint64(device), KickFD: -1, CallFD: -1,
			Features: packed | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx,
		})
		if err != nil {
			if !errors.Is(err, virtio.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		q.SetBase(base)
		p := make([]byte, 64<<10)
		var chains []*virtio.Chain
		for step := range 2 * int(min(size, 500)) {
			c := &virtio.Chain{}
			ok, err := q.Pop(c)
			if err != nil && !errors.Is(err, virtio.ErrMalformed) {
				t.Fatal(err)
			}
			if len(c.Read)+len(c.Write) > virtio.MaxChain || c.ReadLen+c.WriteLen > 1<<32 {
				t.Fatalf("chain of %d+%d pieces, %d+%d bytes", len(c.Read), len(c.Write), c.ReadLen, c.WriteLen)
			}
			if ok {
				chains = append(chains, c)
			}
			if q.InFlight() != len(chains) || len(chains) > int(size) {
				t.Fatalf("%d in flight, %d taken, ring of %d", q.InFlight(), len(chains), size)
			}
			switch {
			case ok && step%5 == 4:
				q.Unpop(c)
				chains = chains[:len(chains)-1]
			case len(chains) > 0 && (!ok || step%3 == 0):
				i := step % len(chains)
				chains[i].CopyIn(p, 0)
				chains[i].CopyOut(0, p)
				q.PushChain(chains[i], uint32(chains[i].WriteLen))
				chains = slices.Delete(chains, i, i+1)
			case !ok:
				return
			}
			q.EnableKicks()
			q.Notify()
			if len(content) > 0 { // the driver goes on
				mem.WriteAt(content[step%len(content):], uint64(desc)+uint64(step%int(size))*16+uint64(step%16))
			}
		}
	})
}
