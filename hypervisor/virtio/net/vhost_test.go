package net

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/vhost"
	"virtd/hypervisor/virtio"
	"virtd/lab/labtest"
)

// fakePair records what a vhost pair is asked to do.
type fakePair struct {
	mu      sync.Mutex
	calls   []string
	refuse  error
	setup   vhost.Setup
	lacking uint64
}

func (p *fakePair) say(s string) {
	p.mu.Lock()
	p.calls = append(p.calls, s)
	p.mu.Unlock()
}

func (p *fakePair) Features() uint64 { return vhost.RingFeatures &^ p.lacking }
func (p *fakePair) Start(s vhost.Setup) error {
	p.say("start")
	p.setup = s
	return p.refuse
}

func (p *fakePair) Stop() error {
	p.say("stop")
	p.setup.RX.SetBase(5) // as if the kernel had used five buffers
	return nil
}
func (p *fakePair) StartLog(*memory.Memory) error { p.say("log"); return nil }
func (p *fakePair) CollectLog()                   { p.say("collect") }
func (p *fakePair) StopLog() error                { p.say("no log"); return nil }
func (p *fakePair) Close() error                  { return nil }

func newVhostFixture(t *testing.T, pairs int, refuse error) (*fixture, []*fakePair) {
	t.Helper()
	f := newFixture(t, pairs, allNet)
	f.dev.Reset()
	var fakes []*fakePair
	f.dev.cfg.Vhosts = make([]int, pairs)
	for range pairs {
		p := &fakePair{refuse: refuse}
		fakes = append(fakes, p)
		f.dev.vhosts = append(f.dev.vhosts, p)
	}
	f.newDriver()
	return f, fakes
}

func TestVhostLife(t *testing.T) {
	f, fakes := newVhostFixture(t, 2, nil)
	if fakes[1].setup.RX.Index() != 2 || fakes[1].setup.TX.Index() != 3 || fakes[1].setup.Tap != f.dev.taps[1].fd {
		t.Errorf("pair 1 got queues %d, %d", fakes[1].setup.RX.Index(), fakes[1].setup.TX.Index())
	}
	if f.command(classMQ, mqPairsSet, []byte{2, 0}) != controlOK {
		t.Error("the control queue does not answer beside vhost")
	}
	f.dev.Quiesce()
	if got := f.tr.Env.Queues[0].Base(); got != 5 {
		t.Errorf("base %d after quiesce, not the kernel's", got)
	}
	f.dev.Resume()
	if err := f.dev.LogDirty(f.mem, true); err != nil {
		t.Fatal(err)
	}
	f.dev.SyncDirty()
	if err := f.dev.LogDirty(f.mem, false); err != nil {
		t.Fatal(err)
	}
	fakes[0].setup.Broken(virtio.ErrMalformed)
	if err := f.tr.WaitFailure(t); !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("failure %v", err)
	}
	f.dev.Reset()
	want := []string{"start", "stop", "start", "log", "collect", "no log", "stop"}
	for i, p := range fakes {
		if d := cmp.Diff(want, p.calls); d != "" {
			t.Errorf("pair %d (-want +got):\n%s", i, d)
		}
	}
}

// TestVhostLink checks that the engine drops packets while the cable is out, and the kernel has them otherwise.
func TestVhostLink(t *testing.T) {
	f, fakes := newVhostFixture(t, 1, nil)
	fakes[0].setup.RX.SetBase(0)
	f.dev.SetLink(false)
	f.fromHost(0, pattern(100))
	f.wantStats(func(s Stats) bool { return s.RxDropped == 1 })
	f.dev.SetLink(true)
	f.dev.Reset()
	if d := cmp.Diff([]string{"start", "stop", "start", "stop"}, fakes[0].calls); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if f.tr.ConfigChanges() != 2 {
		t.Errorf("%d changes announced", f.tr.ConfigChanges())
	}
}

// TestVhostRefuses checks that packets go through the engine when the kernel does not want the rings.
func TestVhostRefuses(t *testing.T) {
	f, fakes := newVhostFixture(t, 1, unix.EPERM)
	if name, why := f.dev.Backend(); name != BackendEngine || !errors.Is(why, unix.EPERM) {
		t.Errorf("back end %s, because of %v", name, why)
	}
	bufs := f.offerRx(0, 1, 2048)
	f.fromHost(0, pattern(100))
	wantBytes(t, "received", f.receiveFrame(0, bufs), pattern(100))
	fakes[0].refuse = nil
	var told []string
	f.dev.cfg.BackendChanged = func(name string, why error) { told = append(told, fmt.Sprint(name, " ", why)) }
	for range 2 { // the second brings no news
		f.dev.Reset()
		f.newDriver()
	}
	if name, why := f.dev.Backend(); name != BackendKernel || why != nil {
		t.Errorf("back end %s, %v once the kernel wants them", name, why)
	}
	if d := cmp.Diff([]string{"vhost <nil>"}, told); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
	f.dev.Reset()
	if d := cmp.Diff([]string{"start", "start", "stop", "start", "stop"}, fakes[0].calls); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestVhostNotOpened(t *testing.T) {
	f := newFixture(t, 1, allNet)
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	said := false
	f.dev.cfg.Vhosts, f.dev.cfg.Log = []int{null}, func(string, ...any) { said = true }
	f.dev.openVhost()
	if name, why := f.dev.Backend(); name != BackendEngine || why == nil {
		t.Errorf("back end %s, %v", name, why)
	}
	if len(f.dev.vhosts) != 0 || !said {
		t.Errorf("%d pairs on /dev/null, said so: %v", len(f.dev.vhosts), said)
	}
	if err := unix.Close(null); err != unix.EBADF {
		t.Errorf("the descriptor was left open: %v", err)
	}
}

func TestVhostFeatures(t *testing.T) {
	d := &Device{vhosts: []kernelPair{&fakePair{lacking: featureMrgRxbuf | virtio.FeatureEventIdx}}}
	all := featureMrgRxbuf | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc | featureMAC | featureCsum
	if got := d.vhostFeatures(all); got != virtio.FeatureIndirectDesc|featureMAC|featureCsum {
		t.Errorf("features %#x", got)
	}
}

// TestServesPacked: packed virtqueues need whoever moves the packets to have them.
func TestServesPacked(t *testing.T) {
	f, fakes := newVhostFixture(t, 2, nil)
	if !f.dev.ServesPacked() {
		t.Error("not with a kernel that has them")
	}
	fakes[1].lacking = virtio.FeatureRingPacked
	if f.dev.ServesPacked() {
		t.Error("with a kernel that does not have them for pair 1")
	}
	if f = newFixture(t, 1, allNet); !f.dev.ServesPacked() {
		t.Error("not in the engine")
	}
}

// TestLabVhost moves packets of a device through the real vhost-net, switching the link in between.
func TestLabVhost(t *testing.T) {
	labtest.Need(t, labtest.VhostNet, labtest.Tun)
	fd, err := unix.Open("/dev/vhost-net", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, tap := newTapFixture(t, 1, func(c *Config) { c.Vhosts = []int{fd} })
	if len(f.dev.vhosts) != 1 {
		t.Fatal("vhost-net was not taken")
	}
	exchange(t, f, tap, 100)
	if s := f.dev.Stats(); s != (Stats{}) {
		t.Errorf("packets went through the engine: %+v", s)
	}
	f.dev.SetLink(false)
	f.tx(0).Add(f.put(make([]byte, 100)))
	f.tx(0).Kick()
	f.tx(0).WaitUsed(t)
	f.dev.SetLink(true)
	exchange(t, f, tap, 200)
	f.dev.Quiesce()
	f.dev.Resume()
	exchange(t, f, tap, 300)
	f.dev.Reset()
	f.newDriver()
	exchange(t, f, tap, 400)
	if err := f.tr.Failure(); err != nil {
		t.Error(err)
	}
}
