package balloon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

const (
	ram    = 8 << 20
	listAt = 0x20000
	statAt = 0x30000
	pageAt = 0x100000
)

type rig struct {
	t     testing.TB
	dev   *Device
	mem   *memory.Memory
	rings []*virtiotest.Ring
	tr    *virtiotest.Transport
}

func newRig(t testing.TB, features uint64, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, mem: virtiotest.NewMemory(t, ram)}
	cfg.Memory, cfg.Name = r.mem, "balloon0"
	r.dev = newDevice(t, cfg)
	for i := range r.dev.QueueSizes() {
		r.rings = append(r.rings, virtiotest.NewRing(t, r.mem, uint64(0x1000+i*0x1000), 16))
	}
	r.tr = virtiotest.NewTransport(t, r.mem, features, r.rings...)
	if err := r.dev.Activate(r.tr.Env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.dev.Reset)
	return r
}

func newDevice(t testing.TB, cfg Config) *Device {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func list(pfns ...uint32) []byte {
	var b []byte
	for _, p := range pfns {
		b = binary.LittleEndian.AppendUint32(b, p)
	}
	return b
}

// send gives page numbers to the inflate (0) or deflate (1) queue.
func (r *rig) send(queue int, pfns ...uint32) {
	r.t.Helper()
	b := list(pfns...)
	r.mem.WriteAt(b, listAt)
	r.rings[queue].Add(virtiotest.Buf{GPA: listAt, Len: uint32(len(b))})
	r.rings[queue].Kick()
	r.rings[queue].WaitUsed(r.t)
}

// fill writes to pages so that their loss shows.
func (r *rig) fill(first, n uint32) {
	r.mem.WriteAt(bytes.Repeat([]byte{0xaa}, int(n)*pageSize), uint64(first)*pageSize)
}

func (r *rig) gone(pfn uint32) bool {
	p := make([]byte, pageSize)
	r.mem.ReadAt(p, uint64(pfn)*pageSize)
	return bytes.Equal(p, make([]byte, pageSize))
}

func TestInflateDeflate(t *testing.T) {
	r := newRig(t, 0, Config{})
	const first = pageAt / pageSize
	r.fill(first, 16)
	r.send(0, first+3, first+1, first+2, first+9, first+9) // out of order, twice
	for i := uint32(0); i < 16; i++ {
		if want := i >= 1 && i <= 3 || i == 9; r.gone(first+i) != want {
			t.Errorf("page %d gone = %v", i, !want)
		}
	}
	r.send(1, first+1)
	r.fill(first+1, 1)
	if r.gone(first + 1) {
		t.Error("page does not come back")
	}
	if err := r.tr.Failure(); err != nil {
		t.Error(err)
	}
}

// TestHostilePages: numbers beyond RAM, and the balloon's own rings, are the guest's loss only.
func TestHostilePages(t *testing.T) {
	r := newRig(t, 0, Config{})
	const first = pageAt / pageSize
	r.fill(first, 2)
	r.send(0, 0xffffffff, ram/pageSize, first, 0xfee00, ram/pageSize-1, 0x80000000)
	if !r.gone(first) || r.gone(first+1) {
		t.Error("good page among bad ones not taken, or another")
	}
	r.rings[0].Add(virtiotest.Buf{GPA: listAt, Len: 3}, virtiotest.Buf{GPA: listAt, Len: 0}) // less than a number
	r.rings[0].Add(virtiotest.Buf{GPA: listAt, Len: 64, Write: true})                        // nothing to read
	r.rings[0].Kick()
	r.rings[0].WaitUsed(t)
	r.rings[0].WaitUsed(t)
	if err := r.tr.Failure(); err != nil {
		t.Error(err)
	}
}

func TestBalloonTheRings(t *testing.T) {
	r := newRig(t, 0, Config{})
	b := list(1, 2, 3, listAt/pageSize)
	r.mem.WriteAt(b, listAt)
	r.rings[0].Add(virtiotest.Buf{GPA: listAt, Len: uint32(len(b))})
	r.rings[0].Kick()
	r.tr.WaitFailure(t) // the available index went back to zero
	r.dev.Reset()
}

func TestInhibit(t *testing.T) {
	r := newRig(t, 0, Config{})
	const pfn = pageAt / pageSize
	r.fill(pfn, 1)
	r.dev.Inhibit(true)
	r.send(0, pfn)
	if r.gone(pfn) {
		t.Error("pinned page given back")
	}
	r.dev.Inhibit(false)
	r.send(0, pfn)
	if !r.gone(pfn) {
		t.Error("page not given back")
	}
}

// TestLargePages: with a backing of 64 KiB pages nothing goes before 16 guest pages are in the balloon.
func TestLargePages(t *testing.T) {
	r := newRig(t, 0, Config{HostPage: 64 << 10})
	const first = pageAt / pageSize
	r.fill(first, 32)
	for i := range uint32(16) {
		if r.gone(first) {
			t.Fatalf("given back with %d parts", i)
		}
		r.send(0, first+15-i, first+15-i)
	}
	if !r.gone(first) || !r.gone(first+15) || r.gone(first+16) {
		t.Error("complete page not given back, or another")
	}
	r.fill(first, 16)
	r.send(1, first+3)
	r.send(0, first+3)
	if !r.gone(first) {
		t.Error("page completed again not given back")
	}
	state, err := r.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	next := newDevice(t, Config{Memory: r.mem, HostPage: 64 << 10})
	if err := next.Restore(state); err != nil || len(next.held.parts) != 1 {
		t.Errorf("restored %v, %v", next.held.parts, err)
	}
	if err := newDevice(t, Config{Memory: r.mem}).Restore(state); err == nil {
		t.Error("restored into a backing of small pages")
	}
}

func TestTargetAndActual(t *testing.T) {
	var told atomic.Uint64
	r := newRig(t, 0, Config{Target: ram - 4<<20, OnActual: told.Store})
	get := func(off int) uint32 {
		var b [4]byte
		r.dev.ReadConfig(off, b[:])
		return binary.LittleEndian.Uint32(b[:])
	}
	if get(cfgNumPages) != 1024 || r.dev.Target() != ram-4<<20 {
		t.Errorf("num_pages %d, target %d", get(cfgNumPages), r.dev.Target())
	}
	for _, c := range []struct{ set, want uint64 }{{ram - pageSize, ram - pageSize}, {ram + 1, ram}, {0, ram}, {1 << 63, ram}, {4095, 0}, {5000, 4096}} {
		if r.dev.SetTarget(c.set); r.dev.Target() != c.want {
			t.Errorf("target %d gives %d, want %d", c.set, r.dev.Target(), c.want)
		}
	}
	if r.tr.ConfigChanges() != 6 {
		t.Errorf("driver told %d times", r.tr.ConfigChanges())
	}
	for _, c := range []struct {
		pages uint32
		want  uint64
	}{{1024, ram - 4<<20}, {0xffffffff, 0}, {ram/pageSize + 1, 0}, {0, ram}} {
		r.dev.WriteConfig(cfgActual, binary.LittleEndian.AppendUint32(nil, c.pages))
		if r.dev.Actual() != c.want || told.Load() != c.want {
			t.Errorf("actual %d pages gives %d, told %d, want %d", c.pages, r.dev.Actual(), told.Load(), c.want)
		}
	}
	r.dev.WriteConfig(cfgNumPages, []byte{1, 2, 3, 4})
	r.dev.WriteConfig(cfgActual, []byte{1})
	r.dev.WriteConfig(cfgActual+1, []byte{1, 1, 1, 1})
	if r.dev.Actual() != ram || r.dev.Target() != 4096 {
		t.Error("wrote what is read-only, or part of a field")
	}
	r.dev.WriteConfig(cfgActual, []byte{1, 0, 0, 0})
	r.dev.Reset()
	if r.dev.Actual() != ram || r.dev.Target() != 4096 {
		t.Errorf("after reset actual %d, target %d", r.dev.Actual(), r.dev.Target())
	}
}

func stat(tag uint16, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, tag), v)
}

// driver answers statistics requests until the test ends: each answer counts up.
func (r *rig) driver(stop chan struct{}) {
	ring := r.rings[statsQueue]
	for n := uint64(1); ; n++ {
		b := append(append(stat(tagFree, n<<20), stat(tagTotal, ram)...), stat(999, 5)...)
		r.mem.WriteAt(b, statAt)
		ring.Add(virtiotest.Buf{GPA: statAt, Len: uint32(len(b))})
		ring.Kick()
		for {
			if _, ok := ring.Collect(); ok {
				break
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}
}

func (r *rig) runDriver() (stop func()) {
	c, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); r.driver(c) }()
	return func() { close(c); <-done }
}

func TestStatsOnDemand(t *testing.T) {
	r := newRig(t, FeatureStats, Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.dev.Stats(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("no buffer yet: %v", err)
	}
	defer r.runDriver()()
	virtiotest.Eventually(t, "the first statistics", func() bool { return r.dev.LastStats().Has != 0 })
	before := r.dev.LastStats().Free
	long, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 3 {
		s, err := r.dev.Stats(long)
		if err != nil || s.Free <= before || s.Total != ram || s.Has != 1<<tagFree|1<<tagTotal || s.Updated.IsZero() {
			t.Fatalf("%+v, %v; free was %d", s, err, before)
		}
		before = s.Free
	}
	s := r.dev.LastStats()
	got := map[string]uint64{}
	s.Each(func(name string, v uint64) { got[name] = v })
	if len(got) != 2 || got["free"] == 0 || got["total"] != ram {
		t.Errorf("Each gives %v", got)
	}
}

func TestStatsPeriod(t *testing.T) {
	r := newRig(t, FeatureStats, Config{})
	defer r.runDriver()()
	r.dev.SetStatsPeriod(time.Millisecond)
	virtiotest.Eventually(t, "five statistics without asking", func() bool { return r.dev.LastStats().Free >= 5<<20 })
	r.dev.SetStatsPeriod(0)
}

func TestNoStats(t *testing.T) {
	r := newRig(t, 0, Config{})
	if _, err := r.dev.Stats(context.Background()); !errors.Is(err, ErrNoStats) {
		t.Error(err)
	}
}

// TestHostileStats: too long (FC #5794), too short, twice, unreadable.
func TestHostileStats(t *testing.T) {
	r := newRig(t, FeatureStats, Config{})
	ring := r.rings[statsQueue]
	r.mem.WriteAt(stat(tagFree, 7), statAt)
	ring.Add(virtiotest.Buf{GPA: statAt, Len: 4 << 20})
	ring.Kick()
	virtiotest.Eventually(t, "a long buffer is read as far as it makes sense", func() bool { return r.dev.LastStats().Has != 0 })
	ring.Add(virtiotest.Buf{GPA: statAt, Len: 9})
	ring.Kick()
	ring.WaitUsed(t) // the first comes back
	ring.Add(virtiotest.Buf{GPA: statAt, Len: 10, Write: true})
	ring.Kick()
	ring.WaitUsed(t)
	virtiotest.Eventually(t, "buffers without statistics count as told", func() bool { return r.dev.LastStats().Has == 0 })
	if err := r.tr.Failure(); err != nil {
		t.Error(err)
	}
	ring.Offer(500)
	ring.Kick()
	r.tr.WaitFailure(t)
}

func TestFreePageReporting(t *testing.T) {
	for name, c := range map[string]struct {
		features uint64
		queue    int
		missing  int
		poison   uint32
		want     bool
	}{
		"numbered without gaps": {FeatureStats | FeatureReporting, 3, 4, 0, true},
		"numbered as specified": {FeatureStats | FeatureReporting, 4, 3, 0, true},
		"without statistics":    {FeatureReporting, 2, 4, 0, true},
		"poisoned pages stay":   {FeatureStats | FeatureReporting | FeaturePagePoison, 3, 4, 0xaaaaaaaa, false},
	} {
		t.Run(name, func(t *testing.T) {
			mem := virtiotest.NewMemory(t, ram)
			dev := newDevice(t, Config{Memory: mem, FreeReporting: true})
			var rings []*virtiotest.Ring
			for i := range 5 {
				rings = append(rings, virtiotest.NewRing(t, mem, uint64(0x1000+i*0x1000), 16))
			}
			rings[c.missing] = nil
			tr := virtiotest.NewTransport(t, mem, c.features, rings...)
			dev.WriteConfig(cfgPoison, binary.LittleEndian.AppendUint32(nil, c.poison))
			if err := dev.Activate(tr.Env); err != nil {
				t.Fatal(err)
			}
			defer dev.Reset()
			mem.WriteAt(bytes.Repeat([]byte{0xaa}, 6*pageSize), pageAt)
			rings[c.queue].Add(virtiotest.Buf{GPA: pageAt + 100, Len: 2 * pageSize, Write: true}, // one whole page in it
				virtiotest.Buf{GPA: pageAt + 4*pageSize, Len: pageSize, Write: true}, virtiotest.Buf{GPA: pageAt, Len: 10, Write: true})
			rings[c.queue].Kick()
			rings[c.queue].WaitUsed(t)
			r := &rig{t: t, mem: mem}
			for i := range uint32(6) {
				if want := c.want && (i == 1 || i == 4); r.gone(pageAt/pageSize+i) != want {
					t.Errorf("page %d gone = %v", i, !want)
				}
			}
		})
	}
}

func TestSaveRestore(t *testing.T) {
	r := newRig(t, FeatureStats, Config{Target: ram / 2})
	stop := r.runDriver()
	virtiotest.Eventually(t, "statistics", func() bool { return r.dev.LastStats().Has != 0 })
	r.dev.WriteConfig(cfgActual, binary.LittleEndian.AppendUint32(nil, 77))
	r.dev.Quiesce()
	state, err := r.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	next := newDevice(t, Config{Memory: r.mem})
	if err := next.Restore(state); err != nil {
		t.Fatal(err)
	}
	tr := virtiotest.NewTransport(t, r.mem, FeatureStats, r.rings...)
	for i, q := range tr.Env.Queues {
		q.SetBase(r.tr.Env.Queues[i].Base())
	}
	if err := next.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer next.Reset()
	if next.Target() != ram/2 || next.Actual() != ram-77*pageSize {
		t.Errorf("target %d, actual %d", next.Target(), next.Actual())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if s, err := next.Stats(ctx); err != nil || s.Has == 0 {
		t.Errorf("the buffer the device held is lost: %+v, %v", s, err)
	}
	stop()
	for _, bad := range []string{"", "{}", `{"version":1,"pages":1}`, `{"version":1,"pages":2048,"actual":2049}`} {
		if next.Restore([]byte(bad)) == nil {
			t.Errorf("restored %q", bad)
		}
	}
}

func TestQuiesceResume(t *testing.T) {
	r := newRig(t, FeatureStats, Config{})
	defer r.runDriver()()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 50 {
		r.dev.Quiesce()
		r.dev.Resume()
		if _, err := r.dev.Stats(ctx); err != nil {
			t.Fatal(err)
		}
		r.send(0, pageAt/pageSize)
	}
}

func TestRequestDoesNotAllocate(t *testing.T) {
	mem := virtiotest.NewMemory(t, ram)
	dev := newDevice(t, Config{Memory: mem})
	ring := virtiotest.NewRing(t, mem, 0x1000, 16)
	q := virtiotest.NewTransport(t, mem, 0, ring).Env.Queues[0]
	mem.WriteAt(list(300, 301, 500, 499), listAt)
	ring.SetDesc(0, listAt, 16, 0, 0)
	s := &virtio.Service{}
	round := func() {
		ring.Offer(0)
		if _, err := dev.inflateTurn(s, q); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

// FuzzQueues gives random page lists, statistics and reports to the device, and pokes its rings.
func FuzzQueues(f *testing.F) {
	f.Add(list(256, 257, 0xffffffff), uint8(0), []byte{})
	f.Add(stat(tagFree, 1), uint8(2), []byte{0, 1})
	f.Add(list(1, 2, 3), uint8(3), []byte{12, 2, 13, 1, 14, 0})
	f.Fuzz(func(t *testing.T, data []byte, queue uint8, noise []byte) {
		mem := virtiotest.NewMemory(t, 1<<20)
		dev := newDevice(t, Config{Memory: mem, FreeReporting: true, HostPage: 4096 << (queue >> 7 * 4)})
		var rings []*virtiotest.Ring
		for i := range 5 {
			rings = append(rings, virtiotest.NewRing(t, mem, uint64(0x1000+i*0x1000), 16))
		}
		tr := virtiotest.NewTransport(t, mem, FeatureStats|FeatureReporting|virtio.FeatureIndirectDesc, rings...)
		mem.WriteAt(data[:min(len(data), 4096)], listAt)
		i := int(queue&0x7f) % 4
		ring := rings[i]
		ring.Add(virtiotest.Buf{GPA: listAt, Len: uint32(len(data)), Write: i == 3})
		ring.Add(virtiotest.Buf{GPA: listAt, Len: uint32(len(data) / 2)}, virtiotest.Buf{GPA: 0x40000, Len: 1 << 16, Write: true})
		for j := 0; j+1 < len(noise) && j < 64; j += 2 {
			mem.WriteAt(noise[j+1:j+2], uint64(0x1000+i*0x1000)+uint64(noise[j]))
		}
		if err := dev.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		virtiotest.Eventually(t, "the device takes all or fails", func() bool {
			return ring.UsedIdx() > 0 || tr.Failure() != nil
		})
		dev.Reset()
	})
}
