package virtio_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

const (
	ringAt = 0x1000
	bufAt  = 0x10000
	tblAt  = 0x8000
)

func newRing(t testing.TB, size uint16, features uint64) (*virtiotest.Ring, *virtio.Queue) {
	t.Helper()
	r := virtiotest.NewRing(t, virtiotest.NewMemory(t, 1<<20), ringAt, size)
	r.Features = features
	return r, r.Queue(t)
}

func pop(t *testing.T, q *virtio.Queue, c *virtio.Chain) {
	t.Helper()
	if ok, err := q.Pop(c); !ok || err != nil {
		t.Fatalf("Pop = %v, %v", ok, err)
	}
}

func TestQueueChain(t *testing.T) {
	for _, indirect := range []bool{false, true} {
		t.Run(fmt.Sprintf("indirect=%v", indirect), func(t *testing.T) {
			r, q := newRing(t, 8, virtio.FeatureIndirectDesc)
			bufs := []virtiotest.Buf{
				{GPA: bufAt, Len: 3}, {GPA: bufAt + 0x100, Len: 0}, {GPA: bufAt + 0x200, Len: 5},
				{GPA: bufAt + 0x300, Len: 4, Write: true}, {GPA: bufAt + 0x5000, Len: 8, Write: true},
			}
			r.Mem.WriteAt([]byte("abc"), bufAt)
			r.Mem.WriteAt([]byte("defgh"), bufAt+0x200)
			add := func() uint16 {
				if indirect {
					return r.AddIndirect(tblAt, bufs...)
				}
				return r.Add(bufs...)
			}
			var c virtio.Chain
			for round := range 20 { // wraps the ring
				head := add()
				pop(t, q, &c)
				if c.Head != head || c.ReadLen != 8 || c.WriteLen != 12 {
					t.Fatalf("round %d: chain %+v, want head %d", round, c, head)
				}
				got := make([]byte, 8)
				if n := c.CopyIn(got, 0); n != 8 || string(got) != "abcdefgh" {
					t.Fatalf("read %q", got[:n])
				}
				c.Read = virtio.Advance(c.Read, 4)
				if n := c.CopyIn(got, 1); n != 3 || string(got[:n]) != "fgh" {
					t.Fatalf("after Advance read %q", got[:n])
				}
				if n := c.CopyOut(2, []byte("0123456789xxx")); n != 10 {
					t.Fatalf("CopyOut fitted %d", n)
				}
				q.PushChain(&c, 12)
				if u, ok := r.Collect(); !ok || u != (virtiotest.Used{ID: uint32(head), Len: 12}) {
					t.Fatalf("used %v, %v", u, ok)
				}
				r.Mem.ReadAt(got, bufAt+0x5000)
				if string(got) != "23456789" {
					t.Fatalf("guest sees %q", got)
				}
			}
			if ok, err := q.Pop(&c); ok || err != nil {
				t.Errorf("Pop on an empty ring = %v, %v", ok, err)
			}
		})
	}
}

// TestQueueHostile has the cases a) to c) that one chain or ring can show. Each must end in ErrMalformed.
func TestQueueHostile(t *testing.T) {
	const N, W, I = virtiotest.Next, virtiotest.Write, virtiotest.Indirect
	for _, c := range []struct {
		name  string
		setup func(r *virtiotest.Ring)
		want  string
	}{
		{"next beyond the table", func(r *virtiotest.Ring) { r.SetDesc(0, bufAt, 1, N, 8); r.Offer(0) }, "next 8"},
		{"next 65535", func(r *virtiotest.Ring) { r.SetDesc(0, bufAt, 1, N, 65535); r.Offer(0) }, "next 65535"},
		{"self loop", func(r *virtiotest.Ring) { r.SetDesc(3, bufAt, 1, N, 3); r.Offer(3) }, "longer"},
		{"cycle of two", func(r *virtiotest.Ring) { r.SetDesc(0, bufAt, 0, N, 1); r.SetDesc(1, bufAt, 0, N, 0); r.Offer(0) }, "longer"},
		{"indirect and next", func(r *virtiotest.Ring) { r.SetDesc(0, tblAt, 16, I|N, 1); r.Offer(0) }, "indirect"},
		{"indirect in indirect", func(r *virtiotest.Ring) {
			r.PutDesc(tblAt, tblAt, 16, I, 0)
			r.SetDesc(0, tblAt, 16, I, 0)
			r.Offer(0)
		}, "inside"},
		{"indirect length 0", func(r *virtiotest.Ring) { r.SetDesc(0, tblAt, 0, I, 0); r.Offer(0) }, "0 bytes"},
		{"indirect length 17", func(r *virtiotest.Ring) { r.SetDesc(0, tblAt, 17, I, 0); r.Offer(0) }, "17 bytes"},
		{"indirect too long", func(r *virtiotest.Ring) { r.SetDesc(0, tblAt, 16*1025, I, 0); r.Offer(0) }, "bytes"},
		{"indirect length 2^32-16", func(r *virtiotest.Ring) { r.SetDesc(0, tblAt, 0xfffffff0, I, 0); r.Offer(0) }, "bytes"},
		{"indirect loop", func(r *virtiotest.Ring) {
			r.PutDesc(tblAt, bufAt, 1, N, 1)
			r.PutDesc(tblAt+16, bufAt, 1, N, 0)
			r.SetDesc(0, tblAt, 32, I, 0)
			r.Offer(0)
		}, "longer"},
		{"indirect next beyond", func(r *virtiotest.Ring) {
			r.PutDesc(tblAt, bufAt, 1, N, 1)
			r.SetDesc(0, tblAt, 16, I, 0)
			r.Offer(0)
		}, "next 1"},
		{"indirect outside RAM", func(r *virtiotest.Ring) { r.SetDesc(0, 0xd0000000, 16, I, 0); r.Offer(0) }, "outside"},
		{"indirect wraps", func(r *virtiotest.Ring) { r.SetDesc(0, ^uint64(0)-15, 32, I, 0); r.Offer(0) }, "outside"},
		{"indirect runs out of RAM", func(r *virtiotest.Ring) {
			r.PutDesc(1<<20-16, bufAt, 1, N, 1)
			r.SetDesc(0, 1<<20-16, 32, I, 0)
			r.Offer(0)
		}, "outside"},
		{"readable after writable", func(r *virtiotest.Ring) {
			r.Add(virtiotest.Buf{GPA: bufAt, Len: 1, Write: true}, virtiotest.Buf{GPA: bufAt, Len: 1})
		}, "device-readable after"},
		{"address wraps", func(r *virtiotest.Ring) { r.SetDesc(0, ^uint64(0)-4, 16, W, 0); r.Offer(0) }, "outside"},
		{"in the MMIO hole", func(r *virtiotest.Ring) { r.SetDesc(0, 0xfee00000, 16, W, 0); r.Offer(0) }, "outside"},
		{"over the end of RAM", func(r *virtiotest.Ring) { r.SetDesc(0, 1<<20-8, 16, W, 0); r.Offer(0) }, "outside"},
		{"length 2^32-1", func(r *virtiotest.Ring) { r.SetDesc(0, bufAt, 0xffffffff, 0, 0); r.Offer(0) }, "outside"},
		{"head beyond the table", func(r *virtiotest.Ring) { r.Offer(8) }, "head 8"},
		{"head 65535", func(r *virtiotest.Ring) { r.Offer(65535) }, "head 65535"},
		{"index jumps", func(r *virtiotest.Ring) { r.SetAvailIdx(9) }, "ahead"},
		{"index goes back", func(r *virtiotest.Ring) { r.SetAvailIdx(65535) }, "ahead"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, q := newRing(t, 8, virtio.FeatureIndirectDesc)
			c.setup(r)
			var chain virtio.Chain
			_, err := q.Pop(&chain)
			if !errors.Is(err, virtio.ErrMalformed) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Pop: %v, want ErrMalformed with %q", err, c.want)
			}
			r.SetDesc(0, bufAt, 1, 0, 0)
			r.Offer(0)
			if _, again := q.Pop(&chain); again != err {
				t.Errorf("a broken queue came back: %v", again)
			}
		})
	}
}

func TestQueueIndirectNotNegotiated(t *testing.T) {
	r, q := newRing(t, 8, 0)
	r.AddIndirect(tblAt, virtiotest.Buf{GPA: bufAt, Len: 1})
	if _, err := q.Pop(&virtio.Chain{}); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("Pop: %v", err)
	}
}

// TestQueueTotalLength: a chain of 1 MiB buffers in an indirect table stays below the piece limit and exceeds 4 GiB only
// with RAM to match, so the limit is shown with a large sparse RAM.
func TestQueueTotalLength(t *testing.T) {
	mem, err := memory.New(memory.Backing{Kind: memory.Anonymous}, memory.Range{GPA: 0, Size: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	r := virtiotest.NewRing(t, mem, ringAt, 8)
	q := r.Queue(t)
	big := virtiotest.Buf{GPA: 0, Len: 2 << 30, Write: true}
	r.Add(big, big)
	var c virtio.Chain
	pop(t, q, &c)
	r.Add(big, big, virtiotest.Buf{GPA: 0, Len: 1, Write: true})
	if _, err := q.Pop(&c); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("Pop of 4 GiB and a byte: %v", err)
	}
}

func TestQueueLayout(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	good := virtio.QueueConfig{Size: 8, Desc: 0x1000, Avail: 0x2000, Used: 0x3000}
	for _, c := range []struct {
		name string
		edit func(*virtio.QueueConfig)
		ok   bool
	}{
		{"good", func(*virtio.QueueConfig) {}, true},
		{"avail aligned to 2 only", func(c *virtio.QueueConfig) { c.Avail += 2 }, true},
		{"parts overlap", func(c *virtio.QueueConfig) { c.Avail, c.Used = c.Desc, c.Desc }, true}, // hurts only the guest
		{"size 0", func(c *virtio.QueueConfig) { c.Size = 0 }, false},
		{"size 3", func(c *virtio.QueueConfig) { c.Size = 3 }, false},
		{"size 65535", func(c *virtio.QueueConfig) { c.Size = 65535 }, false},
		{"table misaligned", func(c *virtio.QueueConfig) { c.Desc += 8 }, false},
		{"avail misaligned", func(c *virtio.QueueConfig) { c.Avail++ }, false},
		{"used misaligned", func(c *virtio.QueueConfig) { c.Used += 2 }, false},
		{"table over the end", func(c *virtio.QueueConfig) { c.Desc = 1<<20 - 16 }, false},
		{"avail over the end", func(c *virtio.QueueConfig) { c.Avail = 1<<20 - 20 }, false},
		{"used over the end", func(c *virtio.QueueConfig) { c.Used = 1<<20 - 68 }, false},
		{"used at 2^64", func(c *virtio.QueueConfig) { c.Used = ^uint64(0) - 3 }, false},
		{"in a device", func(c *virtio.QueueConfig) { c.Used = 0xfee00000 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.edit(&cfg)
			_, err := virtio.NewQueue(mem, cfg)
			if (err == nil) != c.ok || err != nil && !errors.Is(err, virtio.ErrMalformed) {
				t.Errorf("NewQueue: %v", err)
			}
		})
	}
}

// TestQueueSameHeadTwice: a driver that offers a head again before it came back gets it twice, but can never have more
// in flight than the ring has entries.
func TestQueueSameHeadTwice(t *testing.T) {
	r, q := newRing(t, 4, 0)
	r.SetDesc(0, bufAt, 1, 0, 0)
	var c virtio.Chain
	for range 4 {
		r.Offer(0)
		pop(t, q, &c)
	}
	r.Offer(0)
	if _, err := q.Pop(&c); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("fifth chain in flight on a ring of four: %v", err)
	}
}

func TestQueueUnpop(t *testing.T) {
	r, q := newRing(t, 4, 0)
	a, b := r.Add(virtiotest.Buf{GPA: bufAt, Len: 1}), r.Add(virtiotest.Buf{GPA: bufAt, Len: 1})
	var c, d virtio.Chain
	pop(t, q, &c)
	pop(t, q, &d)
	q.Unpop(&d)
	q.Unpop(&c)
	pop(t, q, &c)
	if c.Head != a {
		t.Errorf("got %d, want %d again", c.Head, a)
	}
	pop(t, q, &c)
	if c.Head != b || q.InFlight() != 2 {
		t.Errorf("got %d (%d in flight), want %d", c.Head, q.InFlight(), b)
	}
}

func TestQueueStage(t *testing.T) {
	r, q := newRing(t, 4, 0)
	r.Add(virtiotest.Buf{GPA: bufAt, Len: 1})
	r.Add(virtiotest.Buf{GPA: bufAt, Len: 1})
	var a, b virtio.Chain
	pop(t, q, &a)
	pop(t, q, &b)
	q.Stage(&a, 0)
	q.Stage(&b, 0)
	if _, ok := r.Collect(); ok {
		t.Error("staged element is visible")
	}
	q.Publish()
	if r.UsedIdx() != 2 {
		t.Errorf("used index %d after Publish", r.UsedIdx())
	}
}

func TestQueueInterrupts(t *testing.T) {
	one := virtiotest.Buf{GPA: bufAt, Len: 1}
	cycle := func(t *testing.T, r *virtiotest.Ring, q *virtio.Queue) {
		r.Add(one)
		var c virtio.Chain
		pop(t, q, &c)
		q.Push(&c, 0)
		r.Collect()
	}
	t.Run("flags", func(t *testing.T) {
		r, q := newRing(t, 4, 0)
		cycle(t, r, q)
		q.Notify()
		if r.Interrupts() != 1 {
			t.Error("no interrupt")
		}
		q.Notify()
		if r.Interrupts() != 0 {
			t.Error("interrupt without news")
		}
		r.SetNoInterrupt(true)
		cycle(t, r, q)
		q.Notify()
		if r.Interrupts() != 0 {
			t.Error("interrupt though suppressed")
		}
	})
	t.Run("event index", func(t *testing.T) {
		r, q := newRing(t, 4, virtio.FeatureEventIdx)
		for i := range 70000 { // past the wrap of the index
			want := 0
			if r.SetUsedEvent(uint16(i + 1)); i%3 == 0 {
				r.SetUsedEvent(uint16(i))
				want = 1
			}
			cycle(t, r, q)
			q.Notify()
			if got := r.Interrupts(); got != want {
				t.Fatalf("round %d: %d interrupts, want %d", i, got, want)
			}
		}
	})
}

func TestQueueKicks(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx} {
		t.Run(fmt.Sprintf("features %#x", features), func(t *testing.T) {
			r, q := newRing(t, 4, features)
			one := virtiotest.Buf{GPA: bufAt, Len: 1}
			var c virtio.Chain
			for range 10 {
				if q.EnableKicks() {
					t.Fatal("empty ring has more")
				}
				r.Add(one)
				if !r.WantsKick() {
					t.Fatal("kicks are on, and the driver sees them off")
				}
				q.DisableKicks()
				pop(t, q, &c)
				q.Push(&c, 0)
				r.Collect()
				r.Add(one)
				if r.WantsKick() {
					t.Fatal("kicks are off, and the driver sees them on")
				}
				if !q.EnableKicks() || !q.Pending() {
					t.Fatal("EnableKicks missed the chain that came meanwhile")
				}
				pop(t, q, &c)
				q.Push(&c, 0)
				r.Collect()
			}
		})
	}
}

// TestQueueMove takes a queue over in the middle, as restore does and as vhost gives it back.
func TestQueueMove(t *testing.T) {
	r, q := newRing(t, 4, virtio.FeatureEventIdx)
	one := virtiotest.Buf{GPA: bufAt, Len: 1}
	var c virtio.Chain
	for range 7 {
		r.Add(one)
		pop(t, q, &c)
		q.Push(&c, 0)
		r.Collect()
	}
	r.SetUsedEvent(100) // wants no interrupt soon
	head := r.Add(one)
	next := r.Queue(t)
	next.SetBase(q.Base())
	pop(t, next, &c)
	if c.Head != head {
		t.Errorf("new owner took %d, want %d", c.Head, head)
	}
	next.Push(&c, 0)
	if u, ok := r.Collect(); !ok || u.ID != uint32(head) {
		t.Errorf("used %v, %v", u, ok)
	}
	next.Notify()
	if r.Interrupts() != 1 {
		t.Error("a new owner cannot know what was signalled, so it must interrupt")
	}
}

func TestQueueDirty(t *testing.T) {
	r, q := newRing(t, 4, 0)
	r.Add(virtiotest.Buf{GPA: 0x20ffe, Len: 4, Write: true}, virtiotest.Buf{GPA: 0x30000, Len: 0x3000, Write: true})
	r.Mem.StartDirtyLog()
	var c virtio.Chain
	pop(t, q, &c)
	q.PushChain(&c, 4+0x1001)
	q.Notify()
	want := map[int]bool{0x20: true, 0x21: true, 0x30: true, 0x31: true, 1: true} // page 1 has the used ring
	got := r.Mem.TakeDirty(0)
	for page := range 0x100 {
		if dirty := got[page/64]>>(page%64)&1 != 0; dirty != want[page] {
			t.Errorf("page %#x dirty = %v", page, dirty)
		}
	}
}

func TestQueueDoesNotAllocate(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx | virtio.FeatureIndirectDesc} {
		r, q := newRing(t, 256, features)
		var c virtio.Chain
		hdr := make([]byte, 16)
		for i := range uint16(256) {
			r.SetDesc(i, bufAt, 16, 0, 0)
		}
		r.SetDesc(0, bufAt, 16, virtiotest.Next, 1)
		r.SetDesc(1, bufAt+0x1000, 4096, virtiotest.Next|virtiotest.Write, 2)
		r.SetDesc(2, bufAt+0x5000, 1, virtiotest.Write, 0)
		round := func() {
			r.Offer(0)
			q.DisableKicks()
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			c.CopyIn(hdr, 0)
			c.Read = virtio.Advance(c.Read, 16)
			q.PushChain(&c, 1)
			q.Notify()
			q.EnableKicks()
		}
		round()
		if n := testing.AllocsPerRun(1000, round); n != 0 {
			t.Errorf("features %#x: %v allocations per request", features, n)
		}
	}
}

func TestCopySplit(t *testing.T) {
	r, q := newRing(t, 64, 0)
	want := []byte("a header of twenty b")
	var bufs []virtiotest.Buf
	for i := range want { // one byte each, in every second byte of RAM
		r.Mem.WriteAt(want[i:i+1], bufAt+2*uint64(i))
		bufs = append(bufs, virtiotest.Buf{GPA: bufAt + 2*uint64(i), Len: 1})
	}
	for i := range want {
		bufs = append(bufs, virtiotest.Buf{GPA: bufAt + 0x1000 + 2*uint64(i), Len: 1, Write: true})
	}
	r.Add(bufs...)
	var c virtio.Chain
	pop(t, q, &c)
	got := make([]byte, len(want)+1)
	if n := c.CopyIn(got, 0); n != len(want) || !bytes.Equal(got[:n], want) {
		t.Errorf("CopyIn %q", got[:n])
	}
	if n := c.CopyOut(0, want); n != len(want) {
		t.Errorf("CopyOut wrote %d", n)
	}
	if got := virtio.LastByte(c.Write); got == nil || *got != 'b' {
		t.Error("last byte is not the last byte")
	}
	c.Write = virtio.Truncate(c.Write, 3)
	if n := virtio.CopyFrom(got, c.Write, 1); n != 2 || string(got[:2]) != " h" {
		t.Errorf("after Truncate %q", got[:n])
	}
	if n := virtio.Zero(c.Write, 1, 100); n != 2 {
		t.Errorf("Zero cleared %d", n)
	}
	if len(virtio.Advance(c.Write, 100)) != 0 || len(virtio.Truncate(nil, 5)) != 0 || virtio.LastByte(nil) != nil {
		t.Error("cutting more than there is leaves something")
	}
}

// TestQueueChangesWhileRead has a second vCPU scribble over rings, descriptors and an indirect table while the device
// works. Every chain that comes out is within its limits, whatever the driver made of the ring since.
func TestQueueChangesWhileRead(t *testing.T) {
	r, q := newRing(t, 16, virtio.FeatureIndirectDesc|virtio.FeatureEventIdx)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		rng := rand.New(rand.NewPCG(1, 2))
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			n := uint16(rng.UintN(18))
			flags := uint16(rng.UintN(8))
			r.SetDesc(n%16, uint64(rng.UintN(1<<21)), uint32(rng.UintN(1<<20)), flags, uint16(rng.UintN(20)))
			r.PutDesc(tblAt+16*uint64(n), uint64(rng.UintN(1<<20)), uint32(rng.UintN(9000)), flags&3, uint16(rng.UintN(17)))
			r.SetDesc(n%3, tblAt, 16*uint32(n), virtiotest.Indirect, 0)
			r.Offer(n % 16)
		}
	}()
	popped, broken := 0, 0
	var c virtio.Chain
	p := make([]byte, 1<<16)
	for i := 0; i < 5_000_000 && (popped < 100 || broken < 100); i++ {
		ok, err := q.Pop(&c)
		switch {
		case err != nil && !errors.Is(err, virtio.ErrMalformed):
			t.Fatal(err)
		case err != nil: // start again where the driver is
			broken++
			word, err := r.Mem.LoadUint32(r.Avail)
			if err != nil {
				t.Fatal(err)
			}
			q = r.Queue(t)
			q.SetBase(word>>16 - 1)
		case ok:
			popped++
			if len(c.Read)+len(c.Write) > virtio.MaxChain || c.ReadLen+c.WriteLen > 1<<32 {
				t.Fatalf("chain of %d+%d pieces", len(c.Read), len(c.Write))
			}
			c.CopyIn(p, 0)
			q.PushChain(&c, uint32(c.CopyOut(0, p[:16])))
			q.EnableKicks()
			q.Notify()
		}
	}
	close(stop)
	<-done
	if popped == 0 || broken == 0 {
		t.Errorf("%d chains, %d errors: the test shows nothing", popped, broken)
	}
}
