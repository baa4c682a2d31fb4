package console

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

const bufAt = 0x10000

// host is a Host with limited room.
type host struct {
	mu    sync.Mutex
	got   bytes.Buffer
	room  int // -1 is no limit
	ready int
}

func (h *host) Write(p []byte) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(p)
	if h.room >= 0 {
		n = min(n, h.room)
		h.room -= n
	}
	h.got.Write(p[:n])
	return n
}

func (h *host) Ready() {
	h.mu.Lock()
	h.ready++
	h.mu.Unlock()
}

func (h *host) give(n int) {
	h.mu.Lock()
	h.room = n
	h.mu.Unlock()
}

func (h *host) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.got.String()
}

type rig struct {
	t      testing.TB
	dev    *Device
	host   *host
	mem    *memory.Memory
	rx, tx *virtiotest.Ring
	tr     *virtiotest.Transport
}

func newRig(t testing.TB, features uint64, cfg Config) *rig {
	t.Helper()
	cfg.Name = "console0"
	r := &rig{t: t, host: &host{room: -1}, mem: virtiotest.NewMemory(t, 1<<20)}
	r.dev = New(r.host, cfg)
	r.rx, r.tx = virtiotest.NewRing(t, r.mem, 0x1000, 16), virtiotest.NewRing(t, r.mem, 0x2000, 16)
	r.tr = virtiotest.NewTransport(t, r.mem, features, r.rx, r.tx)
	if err := r.dev.Activate(r.tr.Env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.dev.Reset)
	return r
}

func (r *rig) output(text string) {
	r.mem.WriteAt([]byte(text), bufAt)
	r.tx.Add(virtiotest.Buf{GPA: bufAt, Len: uint32(len(text))})
	r.tx.Kick()
}

func TestOutput(t *testing.T) {
	r := newRig(t, 0, Config{})
	r.output("hello ")
	r.tx.WaitUsed(t)
	r.mem.WriteAt([]byte("split world"), bufAt)
	r.tx.Add(virtiotest.Buf{GPA: bufAt, Len: 5}, virtiotest.Buf{GPA: bufAt + 5, Len: 6})
	r.tx.Kick()
	r.tx.WaitUsed(t)
	if got := r.host.text(); got != "hello split world" {
		t.Errorf("host got %q", got)
	}
}

// TestSlowHost: output waits in the guest's buffer, also over a stop, and arrives once.
func TestSlowHost(t *testing.T) {
	r := newRig(t, 0, Config{})
	r.host.give(3)
	r.output("abcdefghij")
	virtiotest.Eventually(t, "the host is full", func() bool { return r.host.text() == "abc" })
	r.tx.Kick()
	if r.tx.UsedIdx() != 0 {
		t.Error("buffer given back before it was written")
	}
	r.dev.Quiesce()
	r.host.give(4)
	r.dev.Resume()
	virtiotest.Eventually(t, "the host is full again", func() bool { return r.host.text() == "abcdefg" })
	r.host.give(-1)
	r.dev.Drained()
	r.tx.WaitUsed(t)
	if got := r.host.text(); got != "abcdefghij" {
		t.Errorf("host got %q", got)
	}
}

func TestInput(t *testing.T) {
	r := newRig(t, 0, Config{})
	r.dev.Receive([]byte("typed early, "))
	r.rx.Add(virtiotest.Buf{GPA: bufAt, Len: 6, Write: true})
	r.rx.Add(virtiotest.Buf{GPA: bufAt + 6, Len: 100, Write: true})
	r.rx.Kick()
	if a, b := r.rx.WaitUsed(t), r.rx.WaitUsed(t); a.Len != 6 || b.Len != 7 {
		t.Errorf("used %v, %v", a, b)
	}
	got := make([]byte, 13)
	r.mem.ReadAt(got, bufAt)
	if string(got) != "typed early, " {
		t.Errorf("guest got %q", got)
	}
	r.rx.Add(virtiotest.Buf{GPA: bufAt, Len: 100, Write: true})
	r.rx.Kick()
	r.dev.Receive([]byte("late"))
	if u := r.rx.WaitUsed(t); u.Len != 4 {
		t.Errorf("used %v", u)
	}
}

func TestRoom(t *testing.T) {
	h := &host{room: -1}
	idle := New(h, Config{})
	if idle.Room() != 0 {
		t.Error("takes input without a driver")
	}
	idle.Receive([]byte("lost"))
	r := newRig(t, 0, Config{})
	if r.dev.Room() != inputSize {
		t.Errorf("room %d", r.dev.Room())
	}
	r.dev.Receive(make([]byte, inputSize+10)) // more than it may: the rest is cut
	if r.dev.Room() != 0 {
		t.Errorf("room %d when full", r.dev.Room())
	}
	r.host.mu.Lock()
	ready := r.host.ready
	r.host.mu.Unlock()
	r.rx.Add(virtiotest.Buf{GPA: bufAt, Len: 100, Write: true})
	r.rx.Kick()
	r.rx.WaitUsed(t)
	virtiotest.Eventually(t, "the host hears of room", func() bool {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		return r.host.ready > ready
	})
	if r.dev.Room() != 100 {
		t.Errorf("room %d", r.dev.Room())
	}
}

func TestHostileBuffers(t *testing.T) {
	r := newRig(t, 0, Config{})
	r.tx.Add(virtiotest.Buf{GPA: bufAt, Len: 10, Write: true}) // nothing to read
	r.tx.Add(virtiotest.Buf{GPA: bufAt, Len: 0})
	r.tx.Kick()
	r.tx.WaitUsed(t)
	r.tx.WaitUsed(t)
	r.dev.Receive([]byte("x"))
	r.rx.Add(virtiotest.Buf{GPA: bufAt, Len: 10}) // no room
	r.rx.Add(virtiotest.Buf{GPA: bufAt, Len: 1, Write: true})
	r.rx.Kick()
	if a, b := r.rx.WaitUsed(t), r.rx.WaitUsed(t); a.Len != 0 || b.Len != 1 {
		t.Errorf("used %v, %v", a, b)
	}
	if err := r.tr.Failure(); err != nil {
		t.Error(err)
	}
	r.rx.Offer(99)
	r.dev.Receive([]byte("y"))
	r.tr.WaitFailure(t)
}

func TestConfigSpace(t *testing.T) {
	r := newRig(t, FeatureSize, Config{Cols: 80, Rows: 25})
	var b [16]byte
	r.dev.ReadConfig(0, b[:])
	if binary.LittleEndian.Uint16(b[0:]) != 80 || binary.LittleEndian.Uint16(b[2:]) != 25 || binary.LittleEndian.Uint32(b[4:]) != 1 {
		t.Errorf("configuration % x", b)
	}
	r.dev.SetSize(132, 50)
	if r.dev.ReadConfig(0, b[:]); binary.LittleEndian.Uint16(b[0:]) != 132 || r.tr.ConfigChanges() != 1 {
		t.Error("new size not told")
	}
	r.dev.WriteConfig(cfgEmergency, []byte{'!', 0, 0, 0})
	r.dev.WriteConfig(cfgCols, []byte{1, 1})
	r.dev.WriteConfig(cfgEmergency+1, []byte{'?'})
	if r.host.text() != "!" {
		t.Errorf("emergency write gave %q", r.host.text())
	}
	if New(r.host, Config{}).Features()&FeatureSize != 0 {
		t.Error("offers a size it does not know")
	}
}

func TestSaveRestore(t *testing.T) {
	r := newRig(t, 0, Config{})
	r.host.give(2)
	r.output("output")
	virtiotest.Eventually(t, "the host is full", func() bool { return r.host.text() == "ou" })
	r.dev.Receive([]byte("input"))
	r.dev.Quiesce()
	state, err := r.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{room: -1}
	next := New(h, Config{Name: "next"})
	if err := next.Restore(state); err != nil {
		t.Fatal(err)
	}
	tr := virtiotest.NewTransport(t, r.mem, 0, r.rx, r.tx)
	for i, q := range tr.Env.Queues {
		q.SetBase(r.tr.Env.Queues[i].Base())
	}
	if err := next.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer next.Reset()
	r.tx.WaitUsed(t)
	if h.text() != "tput" {
		t.Errorf("rest of the output %q", h.text())
	}
	r.rx.Add(virtiotest.Buf{GPA: bufAt, Len: 100, Write: true})
	r.rx.Kick()
	if u := r.rx.WaitUsed(t); u.Len != 5 {
		t.Errorf("saved input: %v", u)
	}
	for _, bad := range []string{"", "{}", `{"version":2}`} {
		if next.Restore([]byte(bad)) == nil {
			t.Errorf("restored %q", bad)
		}
	}
}

func TestResetLoop(t *testing.T) {
	r := newRig(t, 0, Config{})
	for range 200 {
		r.dev.Receive([]byte("input"))
		r.dev.Reset()
		rx, tx := virtiotest.RawRing(r.mem, 0x1000, 16), virtiotest.RawRing(r.mem, 0x2000, 16)
		cfgRx, cfgTx := r.rx.Config(), r.tx.Config()
		env := *r.tr.Env
		env.Queues = nil
		for _, c := range []virtio.QueueConfig{cfgRx, cfgTx} {
			q, err := virtio.NewQueue(r.mem, c)
			if err != nil {
				t.Fatal(err)
			}
			env.Queues = append(env.Queues, q)
		}
		if err := r.dev.Activate(&env); err != nil {
			t.Fatal(err)
		}
		tx.Add(virtiotest.Buf{GPA: bufAt, Len: 1})
		rx.Add(virtiotest.Buf{GPA: bufAt, Len: 1, Write: true})
		r.tx.Kick()
	}
}

func TestRequestDoesNotAllocate(t *testing.T) {
	h := &discard{}
	dev := New(h, Config{})
	mem := virtiotest.NewMemory(t, 1<<20)
	ring := virtiotest.NewRing(t, mem, 0x1000, 16)
	q := virtiotest.NewTransport(t, mem, 0, ring).Env.Queues[0]
	ring.SetDesc(0, bufAt, 64, 0, 0)
	s := &virtio.Service{}
	round := func() {
		ring.Offer(0)
		if _, err := dev.transmit(s, q); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

type discard struct{}

func (discard) Write(p []byte) int { return len(p) }
func (discard) Ready()             {}

// FuzzQueues gives random descriptors to both queues while input comes in.
func FuzzQueues(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 64, 0, 0, 0, 2, 0, 0, 0}, []byte("input"), uint8(1))
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 64, 0, 0, 0, 1, 0, 1, 0}, []byte{}, uint8(3))
	f.Fuzz(func(t *testing.T, table, input []byte, n uint8) {
		mem := virtiotest.NewMemory(t, 1<<18)
		dev := New(discard{}, Config{})
		rx, tx := virtiotest.NewRing(t, mem, 0x1000, 16), virtiotest.NewRing(t, mem, 0x2000, 16)
		tr := virtiotest.NewTransport(t, mem, virtio.FeatureIndirectDesc, rx, tx)
		for _, at := range []uint64{0x1000, 0x2000} {
			mem.WriteAt(table[:min(len(table), 256)], at)
		}
		if err := dev.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		dev.Receive(input[:min(len(input), dev.Room())])
		for i := range min(uint16(n), 16) {
			rx.Offer(i)
			tx.Offer(i)
		}
		rx.Kick()
		tx.Kick()
		virtiotest.Eventually(t, "output is taken or the device fails", func() bool {
			return tx.UsedIdx() >= min(uint16(n), 16) || tr.Failure() != nil
		})
		dev.Reset()
	})
}
