package rng

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

const ringAt, bufAt = 0x1000, 0x10000

type rig struct {
	t    testing.TB
	dev  *Device
	mem  *memory.Memory
	ring *virtiotest.Ring
	tr   *virtiotest.Transport
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	dev, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dev: dev, mem: virtiotest.NewMemory(t, 1<<20)}
	r.ring = virtiotest.NewRing(t, r.mem, ringAt, 16)
	r.tr = virtiotest.NewTransport(t, r.mem, virtio.FeatureIndirectDesc, r.ring)
	if err := dev.Activate(r.tr.Env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dev.Reset()
		dev.Close()
	})
	return r
}

func (r *rig) draw(n uint32) []byte {
	r.t.Helper()
	r.ring.Add(virtiotest.Buf{GPA: bufAt, Len: n, Write: true})
	r.ring.Kick()
	u := r.ring.WaitUsed(r.t)
	p := make([]byte, u.Len)
	r.mem.ReadAt(p, bufAt)
	return p
}

func TestKernelSource(t *testing.T) {
	r := newRig(t, Config{Name: "rng0", FD: -1})
	a, b := r.draw(64), r.draw(64)
	if len(a) != 64 || bytes.Equal(a, b) || bytes.Equal(a, make([]byte, 64)) {
		t.Errorf("drew %x, then %x", a, b)
	}
}

// TestHostileBuffers: more than 64 KiB is never given (FC #5762), and what is no room for entropy is given back empty.
func TestHostileBuffers(t *testing.T) {
	r := newRig(t, Config{Name: "rng0", FD: -1})
	if n := len(r.draw(512 << 10)); n != maxRequest {
		t.Errorf("512 KiB offered: %d bytes", n)
	}
	r.ring.Add(virtiotest.Buf{GPA: bufAt, Len: 16})
	r.ring.Kick()
	if u := r.ring.WaitUsed(t); u.Len != 0 {
		t.Errorf("read-only buffer: %d bytes", u.Len)
	}
	if n := len(r.draw(0)); n != 0 {
		t.Errorf("empty buffer: %d bytes", n)
	}
	r.ring.Offer(77)
	r.ring.Kick()
	r.tr.WaitFailure(t)
}

func pipe(t *testing.T) (read, write int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

func TestFileSource(t *testing.T) {
	in, out := pipe(t)
	r := newRig(t, Config{Name: "rng0", FD: in})
	r.ring.Add(virtiotest.Buf{GPA: bufAt, Len: 100, Write: true})
	r.ring.Kick()
	time.Sleep(10 * time.Millisecond)
	if r.ring.UsedIdx() != 0 {
		t.Fatal("answered before there was entropy")
	}
	unix.Write(out, []byte("not random"))
	u := r.ring.WaitUsed(t)
	p := make([]byte, u.Len)
	r.mem.ReadAt(p, bufAt)
	if string(p) != "not random" {
		t.Errorf("drew %q", p)
	}
	unix.Close(out)
}

// TestSilentSource: a source that says nothing, or ended, does not hold up a reset, and is reported once.
func TestSilentSource(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	in, out := pipe(t)
	unix.Close(out)
	r := newRig(t, Config{Name: "rng0", FD: in, Logf: func(f string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, f)
	}})
	r.ring.Add(virtiotest.Buf{GPA: bufAt, Len: 100, Write: true})
	r.ring.Kick()
	virtiotest.Eventually(t, "it is reported", func() bool { mu.Lock(); defer mu.Unlock(); return len(lines) > 0 })
	for range 50 {
		r.ring.Kick()
	}
	r.dev.Quiesce()
	r.dev.Resume()
	mu.Lock()
	if len(lines) != 1 || !strings.Contains(lines[0], "entropy source") {
		t.Errorf("log %q", lines)
	}
	mu.Unlock()
	if r.ring.UsedIdx() != 0 {
		t.Error("buffer given back without entropy")
	}
}

func TestLimit(t *testing.T) {
	if _, err := New(Config{Name: "rng0", FD: -1, Bytes: 5}); err == nil {
		t.Error("limit without period accepted")
	}
	r := newRig(t, Config{Name: "rng0", FD: -1, Bytes: 100, Period: time.Hour})
	if n := len(r.draw(60)); n != 60 {
		t.Errorf("first: %d", n)
	}
	if n := len(r.draw(60)); n != 40 {
		t.Errorf("second: %d, want what is left", n)
	}
	r.ring.Add(virtiotest.Buf{GPA: bufAt, Len: 60, Write: true})
	r.ring.Kick()
	time.Sleep(10 * time.Millisecond)
	if r.ring.UsedIdx() != 2 {
		t.Error("drew beyond the limit")
	}
	r.dev.Quiesce()
	r.dev.reset = time.Now() // the next period begins
	r.dev.Resume()
	if u := r.ring.WaitUsed(t); u.Len != 60 {
		t.Errorf("next period: %d", u.Len)
	}
}

func TestSaveRestore(t *testing.T) {
	r := newRig(t, Config{Name: "rng0", FD: -1})
	r.draw(10)
	r.dev.Quiesce()
	state, err := r.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	r.ring.Add(virtiotest.Buf{GPA: bufAt, Len: 10, Write: true})
	next, _ := New(Config{Name: "rng1", FD: -1})
	if err := next.Restore(state); err != nil {
		t.Fatal(err)
	}
	tr := virtiotest.NewTransport(t, r.mem, 0, r.ring)
	tr.Env.Queues[0].SetBase(r.tr.Env.Queues[0].Base())
	if err := next.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer next.Reset()
	if u := r.ring.WaitUsed(t); u.Len != 10 {
		t.Errorf("used %d", u.Len)
	}
	if next.Restore([]byte(`{"version":9}`)) == nil || next.Restore(nil) == nil {
		t.Error("restored a state that is none")
	}
}

func TestRequestDoesNotAllocate(t *testing.T) {
	dev, _ := New(Config{Name: "rng0", FD: -1})
	mem := virtiotest.NewMemory(t, 1<<20)
	ring := virtiotest.NewRing(t, mem, ringAt, 16)
	q := virtiotest.NewTransport(t, mem, 0, ring).Env.Queues[0]
	ring.SetDesc(0, bufAt, 64, virtiotest.Write, 0)
	s := &virtio.Service{}
	round := func() {
		ring.Offer(0)
		if _, err := dev.turn(s, q); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

func FuzzRequests(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 64, 0, 0, 0, 2, 0, 0, 0}, uint16(1))
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0, 3, 0, 1, 0}, uint16(2))
	f.Fuzz(func(t *testing.T, table []byte, n uint16) {
		dev, _ := New(Config{Name: "rng0", FD: -1})
		mem := virtiotest.NewMemory(t, 1<<18)
		ring := virtiotest.NewRing(t, mem, ringAt, 16)
		tr := virtiotest.NewTransport(t, mem, virtio.FeatureIndirectDesc, ring)
		mem.WriteAt(table[:min(len(table), 256)], ringAt)
		for i := range min(n, 16) {
			ring.Offer(i)
		}
		if err := dev.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		virtiotest.Eventually(t, "the device answers or fails", func() bool { return ring.UsedIdx() >= min(n, 16) || tr.Failure() != nil })
		dev.Reset()
	})
}
