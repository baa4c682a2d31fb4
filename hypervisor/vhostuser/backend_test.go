package vhostuser_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/vhostuser"
	"virtd/hypervisor/vhostuser/vhostusertest"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

func TestMain(m *testing.M) {
	vhostuser.SetPatience(time.Minute, time.Minute, time.Minute) // the machine may be busy
	os.Exit(m.Run())
}

// sharedMemory is RAM that a back end can map.
func sharedMemory(t testing.TB) *memory.Memory {
	t.Helper()
	m, err := memory.New(memory.Backing{Kind: memory.Memfd, Shared: true}, memory.Range{GPA: 0, Size: 1 << 20}, memory.Range{GPA: 1 << 32, Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// echo gives back what it reads.
func echo(_ int, c *virtio.Chain) (uint32, bool) {
	b := make([]byte, c.ReadLen)
	c.CopyIn(b, 0)
	c.CopyOut(0, b)
	return uint32(len(b)), true
}

const protocol = vhostusertest.ProtocolMQ | vhostusertest.ProtocolReplyAck | vhostusertest.ProtocolConfig

// able is a back end that echoes.
func able() vhostusertest.Config {
	return vhostusertest.Config{
		Features: virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc | vhostusertest.FeatureProtocol,
		Protocol: protocol, Queues: 4, Space: make([]byte, 64), Serve: echo,
	}
}

// fixture is a front end with one ring in the second region of RAM.
type fixture struct {
	*vhostuser.Backend
	mem   *memory.Memory
	ring  *virtiotest.Ring
	queue *virtio.Queue

	mu      sync.Mutex
	log     []string
	changes []bool
}

func (f *fixture) config() vhostuser.Config {
	return vhostuser.Config{Name: "dev0", Queues: 1, Log: func(format string, args ...any) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.log = append(f.log, fmt.Sprintf(format, args...))
	}, Changed: func(on bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changes = append(f.changes, on)
	}}
}

func (f *fixture) said(text string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Contains(strings.Join(f.log, "\n"), text)
}

func newFixture(t *testing.T, conn, listen int, change func(*vhostuser.Config)) *fixture {
	t.Helper()
	f := &fixture{mem: sharedMemory(t)}
	cfg := f.config()
	if change != nil {
		change(&cfg)
	}
	var err error
	if f.Backend, err = vhostuser.New(conn, listen, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	f.ring = virtiotest.NewRing(t, f.mem, 1<<32, 16)
	f.ring.Features = virtio.FeatureVersion1
	f.queue = f.ring.Queue(t)
	return f
}

func (f *fixture) start(t *testing.T) {
	t.Helper()
	if err := f.Start(f.setup()); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) setup() vhostuser.Setup {
	return vhostuser.Setup{Memory: f.mem, Features: virtio.FeatureVersion1, Queues: []*virtio.Queue{f.queue}, Enabled: 1}
}

// exchange has text echoed through buffers of the first region.
func (f *fixture) exchange(t *testing.T, text string) {
	t.Helper()
	head := f.offer(t, 0, text)
	f.ring.Kick()
	if u := f.ring.WaitUsed(t); u.ID != uint32(head) || f.answer(t, 0, len(text)) != text {
		t.Fatalf("used %+v with %q, want chain %d with %q", u, f.answer(t, 0, len(text)), head, text)
	}
}

func (f *fixture) offer(t *testing.T, slot uint64, text string) uint16 {
	t.Helper()
	if err := f.mem.WriteAt([]byte(text), 0x1000+slot*256); err != nil {
		t.Fatal(err)
	}
	return f.ring.Add(virtiotest.Buf{GPA: 0x1000 + slot*256, Len: uint32(len(text))},
		virtiotest.Buf{GPA: 0x1080 + slot*256, Len: uint32(len(text)), Write: true})
}

func (f *fixture) answer(t *testing.T, slot uint64, n int) string {
	t.Helper()
	b := make([]byte, n)
	if err := f.mem.ReadAt(b, 0x1080+slot*256); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestServes: a back end serves a ring, gives it back, and serves on.
func TestServes(t *testing.T) {
	for name, features := range map[string]uint64{
		"acknowledged": protocol, "not acknowledged": protocol &^ vhostusertest.ProtocolReplyAck, "no account": protocol,
		"account": protocol | vhostusertest.ProtocolInflight, "old": 0,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := able()
			if cfg.Protocol = features; features == 0 {
				cfg.Features &^= vhostusertest.FeatureProtocol
			}
			back, conn := vhostusertest.Pair(t, cfg)
			f := newFixture(t, conn, -1, nil)
			f.start(t)
			f.exchange(t, "one")
			f.exchange(t, "two")
			f.Stop()
			if f.queue.Base() != 2 {
				t.Errorf("the queue is at %d after two chains", f.queue.Base())
			}
			f.start(t)
			f.exchange(t, "three")
			if back.Base(0) != 2 {
				t.Errorf("the ring went on at %d", back.Base(0))
			}
			if f.Features()&vhostusertest.FeatureProtocol != 0 {
				t.Error("the driver sees the protocol's own feature")
			}
		})
	}
}

// TestKilledOutOfOrder: a back end is killed when it has given back some chains of many, not in their order; the next one
// gets exactly the others.
func TestKilledOutOfOrder(t *testing.T) {
	var mu sync.Mutex
	taken := 0
	cfg := able()
	cfg.Serve = func(i int, c *virtio.Chain) (uint32, bool) {
		mu.Lock()
		defer mu.Unlock()
		taken++
		n, _ := echo(i, c)
		return n, taken > 4 && taken%3 == 0 // the sixth and the ninth
	}
	first, conn := vhostusertest.Pair(t, cfg)
	f := newFixture(t, conn, -1, nil)
	f.start(t)
	want := map[uint32]bool{}
	for i := range 10 / 2 { // 16 descriptors, two for each chain: the first five, then more as descriptors come back
		want[uint32(f.offer(t, uint64(i), fmt.Sprint("text", i)))] = true
	}
	f.ring.Kick()
	virtiotest.Eventually(t, "the back end has them", func() bool { mu.Lock(); defer mu.Unlock(); return taken == 5 })
	for i := 5; i < 8; i++ {
		want[uint32(f.offer(t, uint64(i), fmt.Sprint("text", i)))] = true
	}
	f.ring.Kick()
	u := f.ring.WaitUsed(t) // the sixth
	if !want[u.ID] {
		t.Fatalf("chain %d came back", u.ID)
	}
	delete(want, u.ID)
	first.Kill()
	virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
	f.offer(t, 8, "meanwhile")
	_, conn = vhostusertest.Pair(t, able())
	if err := f.Replace(conn); err != nil {
		t.Fatal(err)
	}
	for range 8 { // seven from before, one from meanwhile
		u := f.ring.WaitUsed(t)
		delete(want, u.ID)
	}
	if len(want) != 0 {
		t.Errorf("chains %v never came back", want)
	}
	f.exchange(t, "after")
	if f.ring.UsedIdx() != f.ring.Offered() {
		t.Errorf("%d chains were offered and %d came back", f.ring.Offered(), f.ring.UsedIdx())
	}
	if f.said("not known for certain") {
		t.Errorf("log: %q", f.log)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.changes, []bool{false, true}) {
		t.Errorf("told of %v", f.changes)
	}
}

// TestKilledWithAccount: the buffer of one back end goes to the next, which starts where the used ring is.
func TestKilledWithAccount(t *testing.T) {
	cfg := able()
	cfg.Protocol |= vhostusertest.ProtocolInflight
	kept := make(chan bool, 2)
	keeper := cfg
	keeper.Serve = func(i int, c *virtio.Chain) (uint32, bool) {
		if c.ReadLen == 4 {
			kept <- true
			return 0, false
		}
		return echo(i, c)
	}
	first, conn := vhostusertest.Pair(t, keeper)
	f := newFixture(t, conn, -1, nil)
	f.start(t)
	f.exchange(t, "one")
	f.offer(t, 1, "kept")
	f.ring.Kick()
	<-kept
	var before, after unix.Stat_t
	if err := unix.Fstat(int(first.Account().Fd()), &before); err != nil {
		t.Fatal(err)
	}
	first.Kill()
	virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
	_, lacking := vhostusertest.Pair(t, able())
	if err := f.Replace(lacking); err == nil || !strings.Contains(err.Error(), "keeps no account") {
		t.Fatalf("a back end without an account: %v", err)
	}
	second, conn := vhostusertest.Pair(t, cfg)
	if err := f.Replace(conn); err != nil {
		t.Fatal(err)
	}
	f.ring.WaitUsed(t)
	if err := unix.Fstat(int(second.Account().Fd()), &after); err != nil || before.Ino != after.Ino {
		t.Errorf("the next back end has another account: %v", err)
	}
	if second.Base(0) != 1 {
		t.Errorf("the next back end began at %d", second.Base(0))
	}
	f.exchange(t, "after")
	f.Forget() // a driver's reset: the next activation has an account of its own
	f.queue.SetBase(uint32(f.ring.Offered()))
	f.start(t)
	f.exchange(t, "again")
	if err := unix.Fstat(int(second.Account().Fd()), &after); err != nil || before.Ino == after.Ino {
		t.Errorf("the account outlived a reset: %v", err)
	}
}

// TestServer: back ends connect to a listening socket, one after the other, and one that is of no use is turned away.
func TestServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	listen, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	back, conn := vhostusertest.Pair(t, able())
	f := newFixture(t, conn, listen, nil)
	f.start(t)
	f.exchange(t, "one")
	dial := func(cfg vhostusertest.Config) *vhostusertest.Backend {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		b := vhostusertest.Serve(c, cfg)
		t.Cleanup(b.Kill)
		return b
	}
	back.Kill()
	lacking := able()
	lacking.Features &^= virtio.FeatureEventIdx
	<-dial(lacking).Done()
	virtiotest.Eventually(t, "the refusal is logged", func() bool { return f.said("lacks features 0x20000000") })
	second := dial(able())
	f.exchange(t, "two")
	third := dial(able()) // waits until the second is gone
	second.Kill()
	f.exchange(t, "three")
	if len(third.Requests()) == 0 {
		t.Error("the third back end was never spoken to")
	}
	if err := f.Replace(-1); err == nil {
		t.Error("a second back end at once")
	}
	f.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket's file is not the front end's: %v", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		t.Error("somebody listens still")
	}
}

// TestQueuesComeAndGo: rings are enabled as the driver uses them.
func TestQueuesComeAndGo(t *testing.T) {
	back, conn := vhostusertest.Pair(t, able())
	f := newFixture(t, conn, -1, func(c *vhostuser.Config) { c.Ordered, c.MTU = true, 9000 })
	second := virtiotest.NewRing(t, f.mem, 1<<32+0x8000, 16)
	second.Index = 2
	s := f.setup()
	s.Queues = append(s.Queues, nil, second.Queue(t))
	if err := f.Start(s); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 3, 0, 3} {
		want := map[int]int{0: 0, 1: 1, 3: 2}[n]
		f.SetEnabled(n)
		virtiotest.Eventually(t, fmt.Sprint(want, " rings are enabled"), func() bool { return back.Enabled() == want })
	}
}

// TestPrivateMemory: RAM that nobody can map is refused before anybody is asked.
func TestPrivateMemory(t *testing.T) {
	_, conn := vhostusertest.Pair(t, able())
	f := newFixture(t, conn, -1, nil)
	f.mem = virtiotest.NewMemory(t, 1<<20)
	if err := f.Start(f.setup()); !errors.Is(err, vhostuser.ErrPrivate) {
		t.Errorf("started on private memory: %v", err)
	}
}
