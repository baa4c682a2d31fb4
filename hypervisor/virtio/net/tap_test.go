package net

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio/net/taptest"
	"virtd/hypervisor/virtio/virtiotest"
)

// newTapFixture is newFixture on a real tap.
func newTapFixture(t *testing.T, queues int, edit ...func(*Config)) (*fixture, *taptest.Tap) {
	t.Helper()
	tap := taptest.New(t, queues)
	f := &fixture{t: t, mem: virtiotest.NewMemory(t, ramSize)}
	cfg := Config{ID: "net0", MAC: testMAC, Taps: tap.FDs, Log: t.Logf}
	for _, e := range edit {
		e(&cfg)
	}
	dev, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.dev = dev
	t.Cleanup(dev.Close)
	f.newDriver()
	return f, tap
}

// newDriver puts fresh rings in front of the device and activates it.
func (f *fixture) newDriver() {
	f.t.Helper()
	f.rings = nil
	for i := range f.dev.QueueSizes() {
		base := uint64(i) * virtiotest.Bytes(ringSize)
		if err := f.mem.WriteAt(make([]byte, virtiotest.Bytes(ringSize)), base); err != nil {
			f.t.Fatal(err)
		}
		f.rings = append(f.rings, virtiotest.NewRing(f.t, f.mem, base, ringSize))
	}
	f.next = 1 << 20
	f.tr = virtiotest.NewTransport(f.t, f.mem, f.dev.Features(), f.rings...)
	f.activate()
}

// exchange sends a frame each way through pair 0.
func exchange(t *testing.T, f *fixture, tap *taptest.Tap, n int) {
	t.Helper()
	out := taptest.Frame(taptest.Peer, taptest.Guest, n)
	f.tx(0).Add(f.put(make([]byte, headerSize)), f.put(out))
	f.tx(0).Kick()
	wantBytes(t, "from the guest", tap.Receive(), out)
	f.tx(0).WaitUsed(t)
	bufs := f.offerRx(0, 4, 2048)
	in := taptest.Frame(taptest.Guest, taptest.Peer, n)
	tap.Send(in)
	for { // the namespace's own IPv6 chatter comes too
		got := f.receiveFrame(0, bufs)
		if len(got) >= 14 && bytes.Equal(got[12:14], in[12:14]) {
			wantBytes(t, "to the guest", got, in)
			return
		}
	}
}

func TestRealTap(t *testing.T) {
	f, tap := newTapFixture(t, 1)
	const want = featureCsum | featureGuestCsum | featureHostTSO4 | featureGuestTSO4 | featureMrgRxbuf
	if f.dev.Features()&want != want {
		t.Errorf("features %#x of a real tap lack %#x", f.dev.Features(), want&^f.dev.Features())
	}
	for _, n := range []int{60, 1514} {
		exchange(t, f, tap, n)
		f.dev.Reset()
		f.newDriver()
	}
}

// TestRealTapQueues switches queue pairs on and off as ethtool -L does.
func TestRealTapQueues(t *testing.T) {
	f, tap := newTapFixture(t, 4)
	exchange(t, f, tap, 100)
	for _, n := range []byte{4, 2, 3, 1, 4} {
		if f.command(classMQ, mqPairsSet, []byte{n, 0}) != controlOK {
			t.Fatalf("%d pairs refused", n)
		}
		f.dev.taps[0].check(t, true)
		for i := range 4 {
			f.dev.taps[i].check(t, i < int(n))
		}
		out := taptest.Frame(taptest.Peer, taptest.Guest, 200)
		pair := int(n) - 1
		f.tx(pair).Add(f.put(append(make([]byte, headerSize), out...)))
		f.tx(pair).Kick()
		wantBytes(t, "from the guest", tap.Receive(), out)
		f.tx(pair).WaitUsed(t)
	}
	f.dev.Reset()
	for i := range 4 {
		f.dev.taps[i].check(t, i == 0)
	}
	if !f.dev.LinkUp() {
		t.Error("a detached queue was taken for a dead tap")
	}
}

// check looks whether the kernel connects the queue with its device.
func (tp *tap) check(t *testing.T, attached bool) {
	t.Helper()
	ifr, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(tp.fd, unix.TUNGETIFF, ifr)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := ifr.Uint16()&unix.IFF_DETACH_QUEUE == 0; got != attached {
		t.Errorf("queue at descriptor %d: attached %v, want %v", tp.fd, got, attached)
	}
}

// TestKernelRefusesPacket checks that vnet headers that contradict their packet cost only it.
func TestKernelRefusesPacket(t *testing.T) {
	f, tap := newTapFixture(t, 1)
	frame := taptest.Frame(taptest.Peer, taptest.Guest, 100)
	for name, hdr := range map[string][headerSize]byte{
		"checksum beyond the packet": {0: 1, 6: 0xff, 7: 0xff, 8: 0xff, 9: 0xff},
		"GSO size 0":                 {0: 1, 1: 1, 2: 54, 6: 34, 8: 16},
		"unknown GSO type":           {1: 0x55, 4: 100},
		"header longer than packet":  {1: 1, 2: 0xff, 3: 0xff, 4: 100},
	} {
		before := f.dev.Stats().TxErrors
		f.tx(0).Add(f.put(append(hdr[:], frame...)))
		f.tx(0).Add(f.put(make([]byte, headerSize))) // a frame of no bytes
		f.tx(0).Kick()
		f.tx(0).WaitUsed(t)
		f.tx(0).WaitUsed(t)
		f.wantStats(func(s Stats) bool { return s.TxErrors == before+2 })
		if t.Failed() {
			t.Fatalf("with %s", name)
		}
	}
	exchange(t, f, tap, 100)
}

// TestTapDown checks that a tap that is down drops, and that it is not taken for a dead one.
func TestTapDown(t *testing.T) {
	f, tap := newTapFixture(t, 1)
	tap.SetDown()
	f.tx(0).Add(f.put(make([]byte, 100)))
	f.tx(0).Kick()
	f.tx(0).WaitUsed(t)
	f.wantStats(func(s Stats) bool { return s.TxDropped == 1 })
	if !f.dev.LinkUp() {
		t.Error("link is down")
	}
}

// TestFloodWithoutBuffers checks that packets without buffers to go to stay in the kernel, which drops beyond its queue.
func TestFloodWithoutBuffers(t *testing.T) {
	f, tap := newTapFixture(t, 1)
	for range 5000 {
		tap.Send(taptest.Frame(taptest.Guest, taptest.Peer, 60))
	}
	out := taptest.Frame(taptest.Peer, taptest.Guest, 100)
	f.tx(0).Add(f.put(append(make([]byte, headerSize), out...)))
	f.tx(0).Kick()
	wantBytes(t, "from the guest", tap.Receive(), out)
	if s := f.dev.Stats(); s.RxPackets != 0 {
		t.Errorf("%d packets went nowhere", s.RxPackets)
	}
}
