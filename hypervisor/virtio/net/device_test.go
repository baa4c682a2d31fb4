package net

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

func TestTransmit(t *testing.T) {
	for _, features := range []uint64{0, allNet} {
		f := newFixture(t, 1, features)
		for _, n := range []int{14, 60, 1514, 9000, 65535} {
			frame := pattern(n)
			whole := append(make([]byte, headerSize), frame...)
			whole[0], whole[1] = 1, 3 // a header the tap would act on: passed through as it is
			for name, parts := range map[string][]virtiotest.Buf{
				"one buffer":    {f.put(whole)},
				"header apart":  {f.put(whole[:headerSize]), f.put(whole[headerSize:])},
				"header in two": {f.put(whole[:5]), f.put(whole[5 : headerSize+3]), f.put(whole[headerSize+3:])},
			} {
				f.tx(0).Add(parts...)
				f.tx(0).Kick()
				wantBytes(t, name, f.toHost(0), whole)
				f.tx(0).WaitUsed(t)
			}
			f.next = 1 << 20
		}
		f.wantStats(func(s Stats) bool {
			return !(s.TxPackets != 15 || s.TxBytes != 3*(14+60+1514+9000+65535) || s.TxDropped+s.TxErrors != 0)
		})
		f.dev.Reset()
	}
}

func TestReceive(t *testing.T) {
	for _, c := range []struct {
		name     string
		features uint64
		bufSize  uint32
		bufs     int
		frames   []int
	}{
		{"mergeable", allNet, 1536, 60, []int{60, 1514, 1524, 1525, 9000, 60}},
		{"mergeable, big packets", allNet, 1536, 60, []int{65535, 60, 65535}},
		{"mergeable, tiny buffers", allNet, 64, 64, []int{60, 1514, 3000}},
		{"one chain a packet", allNet &^ featureMrgRxbuf, 70000, 6, []int{60, 65535, 1514}},
		{"no event index", allNet &^ virtio.FeatureEventIdx, 1536, 60, []int{60, 9000, 60}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, 1, c.features)
			for i, n := range c.frames {
				bufs := f.offerRx(0, c.bufs, c.bufSize)
				want := pattern(n)
				f.fromHost(0, want)
				wantBytes(t, "frame", f.receiveFrame(0, bufs), want)
				if t.Failed() {
					t.Fatalf("at frame %d of %d bytes", i, n)
				}
				// What was not used would come first next time: take a fresh driver.
				f.dev.Reset()
				f = newFixture(t, 1, c.features)
			}
		})
	}
}

// TestReceiveKeepsGoing sends packets of all sizes through one ring that is refilled, without a reset in between.
func TestReceiveKeepsGoing(t *testing.T) {
	f := newFixture(t, 1, allNet)
	bufs := f.offerRx(0, ringSize, 1536)
	for i := range 500 {
		n := []int{60, 1514, 200, 20000, 65000, 1525, 60}[i%7]
		want := pattern(n)
		f.fromHost(0, want)
		got := []byte{}
		count := 1
		for k := 0; k < count; k++ {
			u := f.rx(0).WaitUsed(t)
			b := bufs[uint16(u.ID)]
			part := f.bytes(b.GPA, u.Len)
			if k == 0 {
				count = int(binary.LittleEndian.Uint16(part[numBuffersAt:]))
				part = part[headerSize:]
			}
			got = append(got, part...)
			delete(bufs, uint16(u.ID))
			bufs[f.rx(0).Add(b)] = b
			if f.rx(0).WantsKick() {
				f.rx(0).Kick()
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("packet %d: %d bytes differ from the %d sent", i, len(got), len(want))
		}
	}
	f.wantStats(func(s Stats) bool { return !(s.RxPackets != 500 || s.RxDropped != 0) })
}

// TestStarved checks that packets wait for buffers, also one that already lies partly in some.
func TestStarved(t *testing.T) {
	f := newFixture(t, 1, allNet)
	small, big := pattern(60), pattern(9000)
	f.fromHost(0, small)
	bufs := f.offerRx(0, 1, 1536)
	wantBytes(t, "packet that came before its buffer", f.receiveFrame(0, bufs), small)
	bufs = f.offerRx(0, 2, 1536)
	f.fromHost(0, big)
	virtiotest.Eventually(t, "the device took the packet", func() bool {
		n, err := unix.IoctlGetInt(f.host[0], unix.TIOCOUTQ)
		return err == nil && n == 0
	})
	if u, ok := f.rx(0).Collect(); ok {
		t.Errorf("part of a packet was shown: %+v", u)
	}
	for id, b := range f.offerRx(0, 10, 1536) {
		bufs[id] = b
	}
	wantBytes(t, "packet whose buffers came in two helpings", f.receiveFrame(0, bufs), big)
}

func TestLink(t *testing.T) {
	f := newFixture(t, 1, allNet, func(c *Config) { c.LinkDown = true })
	status := func() byte {
		var b [2]byte
		f.dev.ReadConfig(spaceStatus, b[:])
		return b[0]
	}
	if status() != 0 {
		t.Error("link is up at start")
	}
	bufs := f.offerRx(0, 2, 1536)
	f.fromHost(0, pattern(60))
	virtiotest.Eventually(t, "the packet is dropped", func() bool { return f.dev.Stats().RxDropped == 1 })
	f.tx(0).Add(f.put(make([]byte, 72)))
	f.tx(0).Kick()
	f.tx(0).WaitUsed(t)
	f.dev.SetLink(true)
	f.dev.SetLink(true)
	if status() != statusLinkUp || f.tr.ConfigChanges() != 1 {
		t.Errorf("status %d, %d changes announced", status(), f.tr.ConfigChanges())
	}
	f.fromHost(0, pattern(100))
	wantBytes(t, "packet after the link came up", f.receiveFrame(0, bufs), pattern(100))
	f.hostHasNothing(0)
	f.wantStats(func(s Stats) bool { return !(s.TxDropped != 1 || s.RxPackets != 1) })
}

func TestConfigSpace(t *testing.T) {
	f := newFixture(t, 4, allNet)
	var all [64]byte
	f.dev.ReadConfig(0, all[:])
	want := []byte{0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 4, 0, 0xdc, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0}
	wantBytes(t, "configuration", all[:20], want)
	wantBytes(t, "beyond the end", all[20:], make([]byte, 44))
	var b [4]byte
	f.dev.ReadConfig(0xff, b[:])
	f.dev.WriteConfig(0, []byte{1, 2, 3})
	f.dev.ReadConfig(0, b[:])
	wantBytes(t, "after a write", b[:], want[:4])
}

func TestControl(t *testing.T) {
	f := newFixture(t, 2, allNet)
	mac := []byte{2, 0, 0, 0, 0, 9}
	table := func(n uint32, macs int) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, n), make([]byte, 6*macs)...)
	}
	for _, c := range []struct {
		name       string
		class, cmd byte
		data       []byte
		want       byte
	}{
		{"promiscuous", classRx, 0, []byte{1}, controlOK},
		{"no broadcast", classRx, 5, []byte{1}, controlOK},
		{"rx without value", classRx, 0, nil, controlErr},
		{"unknown rx command", classRx, 6, []byte{1}, controlErr},
		{"address", classMAC, macAddrSet, mac, controlOK},
		{"short address", classMAC, macAddrSet, mac[:5], controlErr},
		{"multicast address", classMAC, macAddrSet, []byte{1, 0, 0, 0, 0, 9}, controlErr},
		{"tables", classMAC, macTableSet, append(table(2, 2), table(1, 1)...), controlOK},
		{"no tables", classMAC, macTableSet, append(table(0, 0), table(0, 0)...), controlOK},
		{"one table", classMAC, macTableSet, table(2, 2), controlErr},
		{"table longer than its command", classMAC, macTableSet, append(table(1<<31, 2), table(0, 0)...), controlErr},
		{"table of 2^32-1", classMAC, macTableSet, append(table(0xffffffff, 0), table(0, 0)...), controlErr},
		{"two pairs", classMQ, mqPairsSet, []byte{2, 0}, controlOK},
		{"no pairs", classMQ, mqPairsSet, []byte{0, 0}, controlErr},
		{"three pairs", classMQ, mqPairsSet, []byte{3, 0}, controlErr},
		{"short pairs", classMQ, mqPairsSet, []byte{1}, controlErr},
		{"bad class", 77, 0, []byte{1}, controlErr},
		{"offloads that do not exist", classOffloads, offloadsSet, binary.LittleEndian.AppendUint64(nil, 1<<40), controlErr},
	} {
		if got := f.command(c.class, c.cmd, c.data); got != c.want {
			t.Errorf("%s: answer %d, want %d", c.name, got, c.want)
		}
	}
	var got [6]byte
	f.dev.ReadConfig(0, got[:])
	wantBytes(t, "address", got[:], mac)
	if f.dev.pairs.Load() != 2 {
		t.Errorf("%d pairs in use", f.dev.pairs.Load())
	}
	f.dev.Reset()
	f.dev.ReadConfig(0, got[:])
	wantBytes(t, "address after reset", got[:], testMAC[:])
	if f.dev.pairs.Load() != 1 {
		t.Errorf("%d pairs in use after reset", f.dev.pairs.Load())
	}
}

// TestControlQueueWithoutMQ checks that a driver that does not take MQ finds the control queue at index 2.
func TestControlQueueWithoutMQ(t *testing.T) {
	f := newFixture(t, 4, allNet&^featureMQ)
	f.rings[2], f.rings[8] = f.rings[8], f.rings[2]
	f.dev.Reset()
	f.tr = virtiotest.NewTransport(t, f.mem, f.dev.Features()&^featureMQ, f.rings[:3]...)
	f.rings = f.rings[:3]
	f.activate()
	if got := f.command(classRx, 0, []byte{1}); got != controlOK {
		t.Errorf("answer %d", got)
	}
	if got := f.command(classMQ, mqPairsSet, []byte{1, 0}); got != controlErr {
		t.Errorf("MQ command without MQ: answer %d", got)
	}
}

func TestQueuePairsAreIndependent(t *testing.T) {
	f := newFixture(t, 4, allNet)
	for i := range 4 {
		want := pattern(100 + i)
		if i > 0 { // pair 0 has no buffers and must not hold up the others
			bufs := f.offerRx(i, 4, 1536)
			f.fromHost(0, want)
			f.fromHost(i, want)
			wantBytes(t, "received", f.receiveFrame(i, bufs), want)
		}
		whole := append(make([]byte, headerSize), want...)
		f.tx(i).Add(f.put(whole))
		f.tx(i).Kick()
		wantBytes(t, "sent", f.toHost(i), whole)
	}
}

func TestHostileRings(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(f *fixture)
	}{
		{"transmit header short", func(f *fixture) { f.tx(0).Add(f.buffer(11)); f.tx(0).Kick() }},
		{"transmit empty chain", func(f *fixture) { f.tx(0).Add(virtiotest.Buf{GPA: 0, Len: 0}); f.tx(0).Kick() }},
		{"transmit only writable", func(f *fixture) { f.tx(0).Add(f.rxBuffer(100)); f.tx(0).Kick() }},
		{"transmit outside RAM", func(f *fixture) { f.tx(0).Add(virtiotest.Buf{GPA: 1 << 40, Len: 100}); f.tx(0).Kick() }},
		{"transmit loop", func(f *fixture) {
			f.tx(0).SetDesc(0, 0, 64, virtiotest.Next, 0)
			f.tx(0).Offer(0)
			f.tx(0).Kick()
		}},
		{"transmit index jumps", func(f *fixture) { f.tx(0).SetAvailIdx(1000); f.tx(0).Kick() }},
		{"receive header short", func(f *fixture) { f.offerRx(0, 1, 11); f.fromHost(0, pattern(60)) }},
		{"receive only readable", func(f *fixture) { f.rx(0).Add(f.buffer(2000)); f.rx(0).Kick(); f.fromHost(0, pattern(60)) }},
		{"receive head beyond table", func(f *fixture) { f.rx(0).Offer(9999); f.rx(0).Kick(); f.fromHost(0, pattern(60)) }},
		{"control without answer", func(f *fixture) { f.control().Add(f.buffer(4)); f.control().Kick() }},
		{"control header short", func(f *fixture) { f.control().Add(f.buffer(1), f.rxBuffer(1)); f.control().Kick() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, 1, allNet)
			c.do(f)
			if err := f.tr.WaitFailure(t); !errors.Is(err, virtio.ErrMalformed) {
				t.Errorf("failure %v is not ErrMalformed", err)
			}
			f.dev.Reset() // and the device works for the next driver
			f.rings = nil
			for i := range 3 {
				f.rings = append(f.rings, virtiotest.NewRing(t, f.mem, uint64(i)*virtiotest.Bytes(ringSize), ringSize))
			}
			if err := f.mem.WriteAt(make([]byte, 3*virtiotest.Bytes(ringSize)), 0); err != nil {
				t.Fatal(err)
			}
			f.tr = virtiotest.NewTransport(t, f.mem, f.dev.Features(), f.rings...)
			f.activate()
			whole := pattern(200)
			f.tx(0).Add(f.put(whole))
			f.tx(0).Kick()
			wantBytes(t, "packet after reset", f.toHost(0), whole)
		})
	}
}

// TestBrokenPackets checks that what breaks no ring costs the guest that packet only.
func TestBrokenPackets(t *testing.T) {
	f := newFixture(t, 1, allNet)
	huge := f.buffer(maxPacket + 1)
	f.tx(0).Add(huge)
	same := make([]virtiotest.Buf, 60) // 60 times the same 64 KiB: far beyond any packet
	for i := range same {
		same[i] = virtiotest.Buf{GPA: 1 << 20, Len: 64 << 10}
	}
	f.tx(0).Add(same...)
	f.tx(0).Kick()
	f.tx(0).WaitUsed(t)
	f.tx(0).WaitUsed(t)
	good := pattern(100)
	f.tx(0).Add(f.put(good))
	f.tx(0).Kick()
	wantBytes(t, "packet after broken ones", f.toHost(0), good)
	f.wantStats(func(s Stats) bool { return !(s.TxErrors != 2 || s.TxPackets != 1) })
	if err := f.tr.Failure(); err != nil {
		t.Errorf("device failed: %v", err)
	}
}

// TestPacketLongerThanAllBuffers checks that it is dropped, not held for ever.
func TestPacketLongerThanAllBuffers(t *testing.T) {
	for name, features := range map[string]uint64{"mergeable": allNet, "not mergeable": allNet &^ featureMrgRxbuf} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 1, features)
			bufs := f.offerRx(0, ringSize, 128)
			f.fromHost(0, pattern(65000))
			f.fromHost(0, pattern(60))
			wantBytes(t, "packet after the long one", f.receiveFrame(0, bufs), pattern(60))
			f.wantStats(func(s Stats) bool { return !(s.RxDropped != 1) })
		})
	}
}

func TestTapClosedByHost(t *testing.T) {
	var logged []string
	f := newFixture(t, 1, allNet, func(c *Config) {
		c.Log = func(format string, _ ...any) { logged = append(logged, format) }
	})
	f.offerRx(0, 4, 1536)
	unix.Shutdown(f.host[0], unix.SHUT_RDWR) // end of file on the device's side, as good as EBADFD of a deleted tap
	virtiotest.Eventually(t, "the link goes down", func() bool { return !f.dev.LinkUp() })
	virtiotest.Eventually(t, "the driver is told", func() bool { return f.tr.ConfigChanges() == 1 })
	for range 3 {
		f.tx(0).Add(f.put(pattern(100)))
		f.tx(0).Kick()
		f.tx(0).WaitUsed(t)
	}
	f.dev.Reset()
	if len(logged) != 1 || !strings.Contains(logged[0], "deleted the tap") {
		t.Errorf("log %q", logged)
	}
}

// TestSaveRestore quiesces a device mid-traffic, and goes on in another one.
func TestSaveRestore(t *testing.T) {
	f := newFixture(t, 2, allNet)
	if f.command(classMQ, mqPairsSet, []byte{2, 0}) != controlOK || f.command(classMAC, macAddrSet, []byte{2, 0, 0, 0, 0, 9}) != controlOK {
		t.Fatal("commands failed")
	}
	bufs := f.offerRx(0, 8, 1536)
	f.fromHost(0, pattern(60))
	f.receiveFrame(0, bufs)
	f.dev.Quiesce()
	state, err := f.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	bases := []uint32{}
	for _, q := range f.tr.Env.Queues {
		bases = append(bases, q.Base())
	}
	if bases[0]&0x7fff != 1 || f.tr.Env.Queues[0].InFlight() != 0 {
		t.Errorf("receive queue at %d with %d in flight: unused buffers were not given back", bases[0], f.tr.Env.Queues[0].InFlight())
	}

	g := newFixture(t, 2, allNet)
	g.dev.Reset()
	if err := g.dev.Restore(state); err != nil {
		t.Fatal(err)
	}
	g.mem, g.rings = f.mem, f.rings
	g.tr = virtiotest.NewTransport(t, f.mem, f.tr.Env.Features, f.rings...)
	for i, q := range g.tr.Env.Queues {
		q.SetBase(bases[i])
	}
	g.next = f.next
	g.activate()
	g.fromHost(0, pattern(300))
	wantBytes(t, "packet after restore", g.receiveFrame(0, bufs), pattern(300))
	whole := pattern(80)
	g.tx(1).Add(g.put(whole))
	g.tx(1).Kick()
	wantBytes(t, "sent after restore", g.toHost(1), whole)
	var mac [6]byte
	g.dev.ReadConfig(0, mac[:])
	if mac != [6]byte{2, 0, 0, 0, 0, 9} || g.dev.pairs.Load() != 2 {
		t.Errorf("restored address %x, %d pairs", mac, g.dev.pairs.Load())
	}
	for name, bad := range map[string]string{"not JSON": "x", "version": `{"version":9}`, "pairs": `{"version":1,"pairs":3}`} {
		if err := g.dev.Restore([]byte(bad)); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
	g.dev.Reset()
}

func TestQuiesceResume(t *testing.T) {
	f := newFixture(t, 1, allNet)
	bufs := f.offerRx(0, 8, 1536)
	for i := range 20 {
		f.dev.Quiesce()
		f.fromHost(0, pattern(100+i))
		f.tx(0).Add(f.put(pattern(50 + i)))
		f.tx(0).Kick()
		f.dev.Resume()
		b := f.receiveFrame(0, bufs)
		wantBytes(t, "received", b, pattern(100+i))
		wantBytes(t, "sent", f.toHost(0), pattern(50+i))
		f.tx(0).WaitUsed(t)
		for id, b := range f.offerRx(0, 1, 1536) {
			bufs[id] = b
		}
	}
}

// TestResetUnderLoad resets while both sides push packets, many times, and counts what is left behind.
func TestResetUnderLoad(t *testing.T) {
	f := newFixture(t, 2, allNet)
	before := runtime.NumGoroutine()
	for range 100 {
		f.offerRx(0, 4, 1536)
		for range 4 {
			f.fromHost(0, pattern(1000))
			f.tx(1).Add(virtiotest.Buf{GPA: 1 << 20, Len: 1000})
			f.tx(1).Kick()
		}
		f.dev.Reset()
		var drain [2048]byte
		for _, h := range f.host {
			for {
				if _, err := unix.Read(h, drain[:]); err != nil {
					break
				}
			}
		}
		f.next = 1 << 20
		f.rings = nil
		for i := range 5 {
			f.rings = append(f.rings, virtiotest.NewRing(t, f.mem, uint64(i)*virtiotest.Bytes(ringSize), ringSize))
		}
		if err := f.mem.WriteAt(make([]byte, 5*virtiotest.Bytes(ringSize)), 0); err != nil {
			t.Fatal(err)
		}
		f.tr = virtiotest.NewTransport(t, f.mem, f.dev.Features(), f.rings...)
		if err := f.dev.Activate(f.tr.Env); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.tr.Failure(); err != nil {
		t.Error(err)
	}
	virtiotest.Eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before+1 })
}

func TestDirtyLogSeesReceivedPackets(t *testing.T) {
	f := newFixture(t, 1, allNet)
	bufs := f.offerRx(0, 1, 8192)
	f.mem.StartDirtyLog()
	f.fromHost(0, pattern(5000))
	f.receiveFrame(0, bufs)
	f.dev.Quiesce()
	bits := f.mem.TakeDirty(0)
	for _, b := range bufs {
		for gpa := b.GPA; gpa < b.GPA+5000; gpa += 4096 {
			if page := gpa / 4096; bits[page/64]>>(page%64)&1 == 0 {
				t.Errorf("page %#x is not dirty", gpa)
			}
		}
	}
}

func TestFeaturesOffered(t *testing.T) {
	const base = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	all := offer(&Config{Taps: make([]int, 4), MTU: 1500}, base|unix.TUN_F_USO4|unix.TUN_F_USO6)
	for _, c := range []struct {
		name    string
		cfg     Config
		tun     uint
		without uint64 // of all
	}{
		{"one queue, no MTU", Config{Taps: make([]int, 1)}, base, featureMQ | featureMTU | featureGuestUSO4 | featureGuestUSO6 | featureHostUSO},
		{"tap without offloads", Config{Taps: make([]int, 4), MTU: 1500}, 0, featureCsum | featureGuestCsum | featureGuestOffloads |
			featureGuestTSO4 | featureGuestTSO6 | featureGuestECN | featureGuestUSO4 | featureGuestUSO6 | featureHostTSO4 | featureHostTSO6 | featureHostECN | featureHostUSO},
		{"host checksums off takes segments along", Config{Taps: make([]int, 4), MTU: 1500, Offloads: map[string]bool{"host.csum": false}},
			base | unix.TUN_F_USO4 | unix.TUN_F_USO6, featureCsum | featureHostTSO4 | featureHostTSO6 | featureHostECN | featureHostUSO},
		{"switches", Config{Taps: make([]int, 4), MTU: 1500, Offloads: map[string]bool{"guest.tso4": false, "host.mrg_rxbuf": false, "guest.csum": true}},
			base | unix.TUN_F_USO4 | unix.TUN_F_USO6, featureGuestTSO4 | featureMrgRxbuf},
		{"no event index", Config{Taps: make([]int, 4), MTU: 1500, NoEventIdx: true}, base | unix.TUN_F_USO4 | unix.TUN_F_USO6, virtio.FeatureEventIdx},
	} {
		if got := offer(&c.cfg, c.tun); got != all&^c.without {
			t.Errorf("%s: features differ by %#x", c.name, got^(all&^c.without))
		}
	}
}

// TestWithoutEventIndex moves packets with the ring flags that came before the event index.
func TestWithoutEventIndex(t *testing.T) {
	f := newFixture(t, 1, allNet, func(c *Config) { c.NoEventIdx, c.Standby = true, true })
	if f.dev.Features()&featureStandby == 0 || f.tr.Env.Features&virtio.FeatureEventIdx != 0 {
		t.Fatalf("features %#x, in use %#x", f.dev.Features(), f.tr.Env.Features)
	}
	for n := range 3 {
		want := pattern(100 + n)
		bufs := f.offerRx(0, 1, 2048)
		f.fromHost(0, want)
		wantBytes(t, "received", f.receiveFrame(0, bufs), want)
		whole := append(make([]byte, headerSize), want...)
		f.tx(0).Add(f.put(whole))
		virtiotest.Eventually(t, "the device asks for kicks", f.tx(0).WantsKick)
		f.tx(0).Kick()
		wantBytes(t, "sent", f.toHost(0), whole)
	}
}

func TestConfigRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"no taps":      {},
		"17 pairs":     {Taps: make([]int, 17)},
		"vhost count":  {Taps: make([]int, 2), Vhosts: make([]int, 1)},
		"MTU 67":       {Taps: make([]int, 1), MTU: 67},
		"queue of 300": {Taps: make([]int, 1), RxQueueSize: 300},
		"queue of 2k":  {Taps: make([]int, 1), TxQueueSize: 2048},
		"not a tap":    {Taps: []int{0}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
