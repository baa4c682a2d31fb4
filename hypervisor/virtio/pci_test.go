package virtio_test

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/pci"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// bench is an echo device on a bus.
type bench struct {
	dev *echo
	pci *virtio.PCI
	g   *virtiotest.Guest
	irq *virtiotest.Interrupts
	mem *memory.Memory
	log *logged
}

type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) f(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, format)
}

func (l *logged) n() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

func newBench(t testing.TB, queues int) *bench {
	t.Helper()
	return newBenchOn(t, queues, virtiotest.NewMemory(t, 1<<20))
}

func newBenchOn(t testing.TB, queues int, mem *memory.Memory, edit ...func(*virtio.PCIConfig)) *bench {
	t.Helper()
	b := &bench{dev: &echo{queues: queues}, irq: virtiotest.NewInterrupts(t), mem: mem, log: &logged{}}
	kind := pci.ExpressEndpoint
	cfg := virtio.PCIConfig{
		Name: "echo0", Device: b.dev, Memory: b.mem, Interrupts: b.irq, Doorbells: b.irq, Express: &kind, Logf: b.log.f,
	}
	for _, e := range edit {
		e(&cfg)
	}
	p, err := virtio.NewPCI(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.pci, b.g = p, virtiotest.Attach(t, b.irq, p)
	t.Cleanup(func() {
		p.Close()
		if b.dev.misuse != nil {
			t.Error(b.dev.misuse)
		}
		if n := b.irq.Open(); n != 0 {
			t.Errorf("%d MSIs left open", n)
		}
		if n := b.irq.Doorbells(); n != 0 {
			t.Errorf("%d doorbells left bound", n)
		}
	})
	return b
}

// ring lays out a ring of 8 for queue i.
func (b *bench) ring(t testing.TB, i int) *virtiotest.Ring {
	return virtiotest.NewRing(t, b.mem, ringAt+uint64(i)*0x1000, 8)
}

// roundTrip sends text through queue i and checks the echo. collect waits for the used element.
func (b *bench) roundTrip(t *testing.T, i int, r *virtiotest.Ring, text string) {
	t.Helper()
	at := bufAt + uint64(i)*0x2000
	b.mem.WriteAt([]byte(text), at)
	r.Add(virtiotest.Buf{GPA: at, Len: uint32(len(text))}, virtiotest.Buf{GPA: at + 0x1000, Len: 4096, Write: true})
	b.g.Kick(i)
	var u virtiotest.Used
	virtiotest.Eventually(t, "the device echoes", func() (ok bool) { u, ok = r.Collect(); return })
	got := make([]byte, len(text))
	b.mem.ReadAt(got, at+0x1000)
	if int(u.Len) != len(text) || string(got) != text {
		t.Fatalf("echo of %q is %q (%d bytes)", text, got, u.Len)
	}
}

func TestPCIIdentity(t *testing.T) {
	g := newBench(t, 2).g
	for _, c := range []struct {
		name      string
		offset, n int
		want      uint64
	}{
		{"vendor and device", 0, 4, 0x1043_1af4},
		{"revision", 8, 1, 1},
		{"subsystem", 0x2c, 4, 0x1100_1af4},
		{"class", 0xb, 1, 7},
		{"interrupt pin", 0x3d, 1, 1},
	} {
		if got := g.ConfigRead(c.offset, c.n); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	for kind, want := range map[int][2]uint64{1: {0, 0x40}, 2: {0x3000, 0x1000}, 3: {0x1000, 1}, 4: {0x2000, 0x1000}} {
		at := g.FindCapability(9, kind)
		if at == 0 {
			t.Errorf("no capability of type %d", kind)
			continue
		}
		if bar, off, n := g.ConfigRead(at+4, 1), g.ConfigRead(at+8, 4), g.ConfigRead(at+12, 4); bar != 4 || off != want[0] || n != want[1] {
			t.Errorf("capability %d: BAR %d at %#x, %#x bytes", kind, bar, off, n)
		}
	}
	if at := g.FindCapability(9, 2); g.ConfigRead(at+16, 4) != 4 {
		t.Error("notify_off_multiplier is not 4")
	}
	if at := g.FindCapability(0x11, -1); g.ConfigRead(at+2, 2)&0x7ff != 2 {
		t.Errorf("MSI-X table size %d, want 3 vectors", g.ConfigRead(at+2, 2)&0x7ff+1)
	}
}

func TestPCIEcho(t *testing.T) {
	for _, c := range []struct {
		name     string
		features uint64
		msix     bool
		bindErr  error
	}{
		{"MSI-X", virtio.FeatureEventIdx | virtio.FeatureIndirectDesc, true, nil},
		{"MSI-X without ring features", 0, true, nil},
		{"no ioeventfd", 0, true, errors.New("none here")},
		{"INTx", 0, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 2)
			b.irq.BindError = c.bindErr
			if c.msix {
				b.g.EnableMSIX(3)
			}
			r0, r1 := b.ring(t, 0), b.ring(t, 1)
			b.g.Start(t, c.features, r0, r1)
			if got := b.g.Read(virtiotest.Status, 1); got != 15 {
				t.Fatalf("status %#x", got)
			}
			wantBells := 2
			if c.bindErr != nil {
				wantBells = 0
			}
			if n := b.irq.Doorbells(); n != wantBells {
				t.Errorf("%d doorbells bound, want %d", n, wantBells)
			}
			for range 20 {
				for _, r := range []*virtiotest.Ring{r0, r1} {
					r.SetUsedEvent(r.UsedIdx())
				}
				b.roundTrip(t, 0, r0, "hello")
				b.roundTrip(t, 1, r1, "other queue")
				if c.msix {
					virtiotest.Eventually(t, "both vectors fire", func() bool {
						return b.g.Vector(b.pci, 1).Pending() && b.g.Vector(b.pci, 2).Pending()
					})
					b.g.Vector(b.pci, 1).Take()
					b.g.Vector(b.pci, 2).Take()
					if b.irq.Line0.High() {
						t.Error("pin driven though MSI-X is on")
					}
					continue
				}
				virtiotest.Eventually(t, "the pin goes up", b.irq.Line0.High)
				virtiotest.Eventually(t, "the ISR is cleared by reading", func() bool {
					return b.g.Read(virtiotest.ISRAt, 1) == 0 && !b.irq.Line0.High()
				})
			}
		})
	}
}

func TestPCIInitOrder(t *testing.T) {
	v1 := virtio.FeatureVersion1
	type step struct{ write, want uint64 }
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"by the book", []step{{1, 1}, {3, 3}, {11, 11}, {15, 15}, {0, 0}}},
		{"two at once", []step{{3, 3}, {11, 11}, {15, 15}}},
		{"driver before acknowledge", []step{{2, 0}}},
		{"features before driver", []step{{1, 1}, {9, 1}}},
		{"driver ok before features", []step{{3, 3}, {7, 3}}},
		{"bit taken back", []step{{3, 3}, {11, 11}, {3, 11}, {15, 15}, {11, 15}}},
		{"unknown bits", []step{{1, 1}, {0x21, 1}, {0x11, 1}}},
		{"needs reset is the device's", []step{{0x41, 1}}},
		{"failed", []step{{1, 1}, {0x81, 0x81}, {0, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newBench(t, 1).g
			for _, s := range c.steps {
				g.Write(virtiotest.Status, 1, s.write)
				if got := g.Read(virtiotest.Status, 1); got != s.want {
					t.Fatalf("after writing %#x the status is %#x, want %#x", s.write, got, s.want)
				}
				if s.want == 3 {
					g.Write(virtiotest.DriverFeatureSelect, 4, 1)
					g.Write(virtiotest.DriverFeature, 4, v1>>32)
				}
			}
		})
	}
}

func TestPCIFeatures(t *testing.T) {
	b := newBench(t, 1)
	g := b.g
	if got, want := g.Features(), b.dev.Features()|virtio.FeatureVersion1; got != want {
		t.Fatalf("offers %#x, want %#x", got, want)
	}
	g.Write(virtiotest.DeviceFeatureSelect, 4, 2)
	if got := g.Read(virtiotest.DeviceFeature, 4); got != 0 {
		t.Errorf("features 64 and up are %#x", got)
	}
	if g.Negotiate(1 << 3) {
		t.Error("agreed without VERSION_1")
	}
	if g.Negotiate(virtio.FeatureVersion1 | 1<<5) {
		t.Error("agreed to a feature that was not offered")
	}
	if !g.Negotiate(virtio.FeatureVersion1 | 1<<3) {
		t.Fatal("refused what was offered")
	}
	g.Write(virtiotest.DriverFeatureSelect, 4, 0)
	g.Write(virtiotest.DriverFeature, 4, 0xffffffff) // after FEATURES_OK
	if got := g.Read(virtiotest.DriverFeature, 4); got != 1<<3 {
		t.Errorf("features changed after FEATURES_OK to %#x", got)
	}
}

func TestPCIAccessPlatform(t *testing.T) {
	b := newBenchOn(t, 1, virtiotest.NewMemory(t, 1<<20), func(c *virtio.PCIConfig) { c.AccessPlatform = true })
	if got := b.g.Features(); got&virtio.FeatureAccessPlatform == 0 {
		t.Fatalf("offers %#x", got)
	}
	if b.g.Negotiate(virtio.FeatureVersion1) {
		t.Error("agreed with a driver that would go around the platform")
	}
	r := b.ring(t, 0)
	b.g.Start(t, virtio.FeatureVersion1|virtio.FeatureAccessPlatform, r)
	b.roundTrip(t, 0, r, "the guest's own addresses")
}

// TestPCIPagePerVQ rings doorbells that are pages apart, through the kernel and without it, and what is beside them.
func TestPCIPagePerVQ(t *testing.T) {
	const queues, stride = 33, 0x1000 // a network device with 16 pairs
	for name, bind := range map[string]error{"in the kernel": nil, "by the vCPU": errors.New("by hand")} {
		t.Run(name, func(t *testing.T) {
			b := newBenchOn(t, queues, virtiotest.NewMemory(t, 1<<20), func(c *virtio.PCIConfig) { c.PagePerVQ = true })
			b.irq.BindError = bind
			b.g.Stride = stride
			at := b.g.FindCapability(9, 2)
			if n, m := b.g.ConfigRead(at+12, 4), b.g.ConfigRead(at+16, 4); n != queues*stride || m != stride {
				t.Fatalf("doorbells: %#x bytes, multiplier %#x", n, m)
			}
			b.g.ConfigWrite(0x20, 4, 0xffffffff)
			if size := ^uint32(b.g.ConfigRead(0x20, 4)&^0xf) + 1; size != 0x40000 {
				t.Fatalf("the BAR has %#x bytes", size)
			}
			b.g.ConfigWrite(0x20, 4, virtiotest.VirtioBAR&0xffffffff)
			rings := make([]*virtiotest.Ring, queues)
			rings[0], rings[queues-1] = b.ring(t, 0), b.ring(t, 1)
			b.g.Start(t, 0, rings...)
			for i, q := range []int{0, queues - 1} {
				at := bufAt + uint64(i)*0x2000
				rings[q].Add(virtiotest.Buf{GPA: at, Len: 8}, virtiotest.Buf{GPA: at + 0x1000, Len: 64, Write: true})
				b.g.Kick(q)
				virtiotest.Eventually(t, "the device echoes", func() bool { _, ok := rings[q].Collect(); return ok })
			}
			b.g.Write(virtiotest.NotifyAt+queues*stride, 2, queues) // behind the last
		})
	}
}

// TestPCIFrozenQueue is CVE-2026-5747: a driver that changes a queue of a running device.
func TestPCIFrozenQueue(t *testing.T) {
	b := newBench(t, 1)
	g := b.g
	write := func() {
		g.Write(virtiotest.QueueSelect, 2, 0)
		g.Write(virtiotest.QueueSize, 2, 4)
		g.Write(virtiotest.QueueDesc, 8, 0xdead0000)
		g.Write(virtiotest.QueueDriver, 4, 0xdead0000)
		g.Write(virtiotest.QueueDevice+4, 4, 0xdead0000)
		g.Write(virtiotest.QueueVector, 2, 0)
		g.Write(virtiotest.QueueEnable, 2, 0)
	}
	image := func() (v [5]uint64) {
		g.Write(virtiotest.QueueSelect, 2, 0)
		for i, off := range []uint64{virtiotest.QueueDesc, virtiotest.QueueDriver, virtiotest.QueueDevice} {
			v[i] = g.Read(off, 8)
		}
		v[3], v[4] = g.Read(virtiotest.QueueSize, 2), g.Read(virtiotest.QueueEnable, 2)
		return v
	}
	fresh := image()
	write()
	if image() != fresh {
		t.Error("a queue can be set up before FEATURES_OK")
	}
	g.EnableMSIX(2)
	r := b.ring(t, 0)
	g.Start(t, 0, r)
	running := image()
	write()
	if image() != running {
		t.Errorf("queue of a running device changed from %v to %v", running, image())
	}
	if g.Read(virtiotest.QueueVector, 2) != 1 {
		t.Error("vector of a running queue changed")
	}
	b.roundTrip(t, 0, r, "still here")
}

func TestPCIQueueRegisters(t *testing.T) {
	g := newBench(t, 1).g
	g.Negotiate(virtio.FeatureVersion1)
	for _, c := range []struct{ write, want uint64 }{{8, 8}, {0, 8}, {3, 8}, {32, 8}, {0xffff, 8}, {16, 16}, {1, 1}} {
		g.Write(virtiotest.QueueSize, 2, c.write)
		if got := g.Read(virtiotest.QueueSize, 2); got != c.want {
			t.Errorf("size after writing %d is %d, want %d", c.write, got, c.want)
		}
	}
	for _, c := range []struct{ write, want uint64 }{{1, 1}, {2, 0xffff}, {0, 0}, {0xfffe, 0xffff}} {
		for _, reg := range []uint64{virtiotest.QueueVector, virtiotest.ConfigVector} {
			g.Write(reg, 2, c.write)
			if got := g.Read(reg, 2); got != c.want {
				t.Errorf("vector register %#x after writing %d is %d, want %d", reg, c.write, got, c.want)
			}
		}
	}
	for _, sel := range []uint64{1, 2, 0x7fff, 0xffff} {
		g.Write(virtiotest.QueueSelect, 2, sel)
		g.Write(virtiotest.QueueEnable, 2, 1)
		g.Write(virtiotest.QueueVector, 2, 0)
		g.Write(virtiotest.QueueDesc, 8, ^uint64(0))
		if g.Read(virtiotest.QueueSize, 2) != 0 || g.Read(virtiotest.QueueEnable, 2) != 0 || g.Read(virtiotest.QueueVector, 2) != 0xffff {
			t.Errorf("queue %d seems to exist", sel)
		}
	}
}

// TestPCIBadRings starts devices whose rings are not RAM, or not what rings look like.
func TestPCIBadRings(t *testing.T) {
	for name, place := range map[string]func(r *virtiotest.Ring){
		"table in MMIO":   func(r *virtiotest.Ring) { r.Desc = 0xfee00000 },
		"used past RAM":   func(r *virtiotest.Ring) { r.Used = 1<<20 - 8 },
		"avail wraps":     func(r *virtiotest.Ring) { r.Avail = ^uint64(1) },
		"in the own BAR":  func(r *virtiotest.Ring) { r.Used = virtiotest.VirtioBAR },
		"table unaligned": func(r *virtiotest.Ring) { r.Desc++ },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1)
			b.g.EnableMSIX(2)
			r := b.ring(t, 0)
			good := *r
			place(r)
			b.g.Start(t, 0, r)
			if got := b.g.Read(virtiotest.Status, 1); got != 15|64 {
				t.Errorf("status %#x, want DEVICE_NEEDS_RESET", got)
			}
			if b.g.Vector(b.pci, 0).Take() == 0 || b.log.n() != 1 {
				t.Error("driver or log not told")
			}
			b.g.Start(t, 0, &good)
			b.roundTrip(t, 0, &good, "after the reset")
		})
	}
}

func TestPCIMalformedChainStopsTheDevice(t *testing.T) {
	b := newBench(t, 1)
	b.g.EnableMSIX(2)
	r := b.ring(t, 0)
	b.g.Start(t, 0, r)
	r.Offer(99)
	b.g.Kick(0)
	virtiotest.Eventually(t, "DEVICE_NEEDS_RESET", func() bool { return b.g.Read(virtiotest.Status, 1)&64 != 0 })
	virtiotest.Eventually(t, "configuration interrupt", b.g.Vector(b.pci, 0).Pending)
	for range 100 {
		b.g.Kick(0)
	}
	if b.log.n() != 1 {
		t.Errorf("%d log lines", b.log.n())
	}
	b.g.Start(t, 0, b.ring(t, 1))
	if got := b.g.Read(virtiotest.Status, 1); got != 15 {
		t.Errorf("status %#x after a new start", got)
	}
}

func TestPCIPanicStopsTheDevice(t *testing.T) {
	b := newBench(t, 1)
	r := b.ring(t, 0)
	b.g.Start(t, 0, r)
	b.mem.WriteAt([]byte("panic"), bufAt)
	r.Add(virtiotest.Buf{GPA: bufAt, Len: 5})
	b.g.Kick(0)
	virtiotest.Eventually(t, "DEVICE_NEEDS_RESET", func() bool { return b.g.Read(virtiotest.Status, 1)&64 != 0 })
}

func TestPCIActivateError(t *testing.T) {
	b := newBench(t, 1)
	b.dev.refuse = errors.New("not today")
	b.g.Start(t, 0, b.ring(t, 0))
	if got := b.g.Read(virtiotest.Status, 1); got != 15|64 {
		t.Errorf("status %#x", got)
	}
	b.dev.refuse = nil
	r := b.ring(t, 0)
	b.g.Start(t, 0, r)
	b.roundTrip(t, 0, r, "second try")
}

func TestPCIResetAtAnyMoment(t *testing.T) {
	b := newBench(t, 2)
	b.g.EnableMSIX(3)
	fds := openFiles(t)
	for i := range 10000 {
		r := virtiotest.RawRing(b.mem, ringAt, 8)
		b.g.Start(t, 0, r)
		r.Add(virtiotest.Buf{GPA: bufAt, Len: 8}, virtiotest.Buf{GPA: bufAt, Len: 8, Write: true})
		b.g.Kick(0)
		if i%2 == 0 {
			b.g.Write(virtiotest.Status, 1, 0)
		} else {
			b.g.Function.Reset()
			reassign(b.g)
		}
		if got := b.g.Read(virtiotest.Status, 1); got != 0 {
			t.Fatalf("status %#x after reset", got)
		}
	}
	if b.dev.resets != 10000 {
		t.Errorf("%d resets reached the device", b.dev.resets)
	}
	if now := openFiles(t); now > fds+2 {
		t.Errorf("%d open files, %d before", now, fds)
	}
}

func reassign(g *virtiotest.Guest) {
	g.ConfigWrite(0x14, 4, virtiotest.MSIXBAR)
	g.ConfigWrite(0x24, 4, virtiotest.VirtioBAR>>32)
	g.ConfigWrite(0x04, 2, 6)
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestPCIKicksOutOfPlace(t *testing.T) {
	b := newBench(t, 1)
	b.irq.BindError = errors.New("by hand")
	b.g.Kick(0) // before the start
	b.g.Write(virtiotest.NotifyAt+4*999, 2, 999)
	b.g.Write(virtiotest.NotifyAt+0xffe, 8, 65535)
	r := b.ring(t, 0)
	b.g.Start(t, 0, r)
	b.g.Write(virtiotest.NotifyAt+4, 2, 1)
	b.g.Write(virtiotest.NotifyAt+1, 1, 0)
	b.roundTrip(t, 0, r, "x")
	b.g.Write(virtiotest.Status, 1, 0)
	b.g.Kick(0) // after reset
}

// TestPCIDoorbellsFollowTheBAR: no doorbell without a driver; with one they follow the BAR, and sizing it is harmless.
func TestPCIDoorbellsFollowTheBAR(t *testing.T) {
	b := newBench(t, 2)
	check := func(when string, want int) {
		t.Helper()
		if n := b.irq.Doorbells(); n != want {
			t.Errorf("%s: %d doorbells, want %d", when, n, want)
		}
	}
	check("before start", 0)
	r := b.ring(t, 1)
	b.g.Start(t, 0, nil, r)
	check("with one of two queues", 1)
	for range 100 {
		b.g.ConfigWrite(0x20, 4, 0xffffffff)
		b.g.ConfigWrite(0x20, 4, virtiotest.VirtioBAR&0xffffffff)
	}
	check("after sizing", 1)
	b.g.ConfigWrite(4, 2, 0)
	check("with memory decoding off", 0)
	b.g.ConfigWrite(4, 2, 6)
	b.roundTrip(t, 1, r, "moved")
}

func TestPCIDeviceConfig(t *testing.T) {
	b := newBench(t, 1)
	b.g.Write(virtiotest.ConfigAt+2, 4, 0x44332211)
	if got := b.g.Read(virtiotest.ConfigAt, 8); got != 0x443322110000 {
		t.Errorf("configuration reads %#x", got)
	}
	if got := b.g.Read(virtiotest.ConfigAt+0xffc, 8); got != 0 {
		t.Errorf("beyond its end it reads %#x", got)
	}
	b.g.EnableMSIX(2)
	b.g.Start(t, 0, b.ring(t, 0))
	before := b.g.Read(virtiotest.Generation, 1)
	b.dev.env.ConfigChanged()
	if b.g.Read(virtiotest.Generation, 1) == before || b.g.Vector(b.pci, 0).Take() != 1 {
		t.Error("change not announced")
	}
	old := b.dev.env
	b.g.Write(virtiotest.Status, 1, 0)
	old.ConfigChanged()
	old.Fail(errors.New("too late"))
	if b.g.Read(virtiotest.Status, 1) != 0 || b.g.Vector(b.pci, 0).Take() != 0 {
		t.Error("a device that was reset still reaches its driver")
	}
}

func TestPCIWindow(t *testing.T) {
	b := newBench(t, 1)
	at := b.g.FindCapability(9, 5)
	if at == 0 {
		t.Fatal("no PCI configuration access capability")
	}
	point := func(bar, offset, n uint64) {
		b.g.ConfigWrite(at+4, 1, bar)
		b.g.ConfigWrite(at+8, 4, offset)
		b.g.ConfigWrite(at+12, 4, n)
	}
	point(4, virtiotest.NumQueues, 2)
	if got := b.g.ConfigRead(at+16, 4); got != 1 {
		t.Errorf("num_queues through the window: %d", got)
	}
	point(4, virtiotest.Status, 1)
	b.g.ConfigWrite(at+16, 4, 1)
	if got := b.g.Read(virtiotest.Status, 1); got != 1 {
		t.Errorf("status written through the window: %#x", got)
	}
	for _, w := range [][3]uint64{{0, 0, 4}, {1, 0, 4}, {4, 2, 4}, {4, 0x4000, 4}, {4, 0xffffffff, 1}, {4, 0xfffffffc, 4}, {4, 0, 3}, {4, 0, 0}, {4, 0, 8}, {0xff, 0, 4}} {
		point(w[0], w[1], w[2])
		b.g.ConfigWrite(at+16, 4, 0)
		b.g.ConfigRead(at+16, 4)
	}
	if got := b.g.Read(virtiotest.Status, 1); got != 1 {
		t.Errorf("a window that is not one changed the status to %#x", got)
	}
}

func TestPCISaveRestore(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	src := newBenchOn(t, 2, mem)
	src.g.EnableMSIX(3)
	r0, r1 := src.ring(t, 0), src.ring(t, 1)
	src.g.Start(t, virtio.FeatureEventIdx, r0, r1)
	for range 5 {
		src.roundTrip(t, 0, r0, "before")
	}
	if _, err := src.pci.Save(); err == nil {
		t.Error("saved a running device")
	}
	src.pci.Quiesce()
	mem.WriteAt([]byte("in the queue"), bufAt)
	r0.Add(virtiotest.Buf{GPA: bufAt, Len: 12}, virtiotest.Buf{GPA: bufAt + 0x1000, Len: 12, Write: true})
	src.g.Kick(0)
	state, err := src.pci.Save()
	if err != nil {
		t.Fatal(err)
	}

	dst := newBenchOn(t, 2, mem)
	dst.g.EnableMSIX(3)
	if err := dst.pci.Restore(state); err != nil {
		t.Fatal(err)
	}
	if again, err := dst.pci.Save(); err != nil || string(again) != string(state) {
		t.Errorf("a restored device saves %s, %v; it was %s", again, err, state)
	}
	if got := dst.g.Read(virtiotest.Status, 1); got != 15 {
		t.Errorf("status %#x", got)
	}
	if dst.dev.env != nil {
		t.Error("device runs before Resume")
	}
	dst.pci.Resume()
	var u virtiotest.Used
	virtiotest.Eventually(t, "the queued request is served without a kick", func() (ok bool) { u, ok = r0.Collect(); return })
	dst.dev.mu.Lock()
	if u.Len != 12 || dst.dev.served != 6 {
		t.Errorf("used %v, served %d", u, dst.dev.served)
	}
	dst.dev.mu.Unlock()
	virtiotest.Eventually(t, "the interrupt for it", dst.g.Vector(dst.pci, 1).Pending)
	dst.roundTrip(t, 1, r1, "after")
	src.pci.Resume() // the source goes on too: a save without stop
	src.g.Write(virtiotest.Status, 1, 0)
}

func TestPCIRestoreRefuses(t *testing.T) {
	b := newBench(t, 1)
	b.pci.Quiesce()
	good, err := b.pci.Save()
	if err != nil {
		t.Fatal(err)
	}
	for old, bad := range map[string]string{
		`"version":1`:     `"version":2`,
		`"device":3`:      `"device":2`,
		`"queues":[{`:     `"queues":[{},{`,
		`"size":16`:       `"size":3`,
		`"running":false`: `"running":true`,
		`"accepted":0`:    `"status":15,"accepted":32`,
		`{`:               ``,
	} {
		state := strings.Replace(string(good), old, bad, 1)
		if state == string(good) {
			t.Fatalf("%s is not in %s", old, good)
		}
		if err := b.pci.Restore([]byte(state)); err == nil {
			t.Errorf("restored a state with %s", bad)
		}
	}
	if err := b.pci.Restore(good); err != nil {
		t.Errorf("refused its own state: %v", err)
	}
}

// FuzzPCI drives the BARs and configuration space with random accesses, in which a valid start is easy to reach.
func FuzzPCI(f *testing.F) {
	for _, features := range []uint64{1, 1 | 1<<2} { // VERSION_1, and RING_PACKED
		f.Add(fuzzStart(features))
	}
	f.Add([]byte{0x81, 0x14, 0, 0, 0, 2, 0x16, 0, 0xff, 0xff, 0x82, 0x1a, 0, 0, 0, 8, 0xfe, 0x3f, 1, 2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := newPackedBench(t, virtiotest.NewMemory(t, 1<<20))
		b.mem.WriteAt(ops[:min(len(ops), 4096)], 0x1000)
		b.mem.WriteAt(ops[:min(len(ops), 4096)], 0x2000)
		b.g.EnableMSIX(3)
		for ; len(ops) >= 5; ops = ops[5:] {
			width := []int{1, 2, 4, 8}[ops[0]>>1&3]
			offset, v := uint64(ops[1])|uint64(ops[2])<<8, uint64(ops[3])|uint64(ops[4])<<8
			if w := int(ops[0] & 0x3f); w == 1 || w == 2 || w == 4 || w == 8 {
				width = w
			}
			switch ops[0] >> 6 {
			case 0:
				b.g.Write(offset%0x4008, width, v|v<<32)
			case 1:
				b.g.ConfigWrite(int(offset%0x1000), width, v)
			case 2:
				b.g.Read(offset%0x4008, width)
				b.g.ConfigRead(int(offset%0x1000), width)
			case 3:
				b.g.Bus.Write(virtiotest.MSIXBAR+offset%0x1000, []byte{byte(v), byte(v >> 8)})
			}
		}
	})
}

// fuzzStart are operations that start queue 0, with features 32 and up.
func fuzzStart(features uint64) (start []byte) {
	for _, w := range [][3]uint64{{0x14, 1, 1}, {0x14, 1, 3}, {8, 4, 1}, {0xc, 4, features}, {0x14, 1, 11}, {0x20, 4, 0x1000}, {0x28, 4, 0x2000}, {0x30, 4, 0x3000}, {0x1c, 2, 1}, {0x14, 1, 15}, {0x3000, 2, 0}} {
		start = append(start, byte(w[1]), byte(w[0]), byte(w[0]>>8), byte(w[2]), byte(w[2]>>8))
	}
	return start
}
