package vhost

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/net/taptest"
	"virtd/hypervisor/virtio/virtiotest"
	"virtd/lab/labtest"
)

// fakeDriver writes down requests, and fails one of them if told to.
type fakeDriver struct {
	mu       sync.Mutex
	calls    []string
	fail     uint  // request that fails
	err      error // with what
	features uint64
	base     uint32 // where both rings stopped
	errorFD  int
}

func (f *fakeDriver) call(req uint, format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf("%#x "+format, append([]any{req}, args...)...))
	if req == f.fail {
		return f.err
	}
	return nil
}

func (f *fakeDriver) none(_ int, req uint) error { return f.call(req, "") }
func (f *fakeDriver) word(_ int, req uint, v *uint64) error {
	switch req {
	case reqGetFeatures:
		*v = f.features
	case reqGetBackendFeatures:
		*v = 2
	case reqSetLogBase:
		return f.call(req, "log")
	}
	return f.call(req, "%#x", *v)
}
func (f *fakeDriver) state(_ int, req uint, v *vringState) error {
	if req == reqGetVringBase {
		v.num = f.base
	}
	return f.call(req, "%d=%d", v.index, v.num)
}
func (f *fakeDriver) file(_ int, req uint, v *vringFile) error {
	if req == reqSetVringErr && v.fd >= 0 {
		f.errorFD = int(v.fd)
	}
	bound := "bound"
	if v.fd < 0 {
		bound = "unbound"
	}
	return f.call(req, "%d %s", v.index, bound)
}
func (f *fakeDriver) addr(_ int, v *vringAddr) error {
	return f.call(reqSetVringAddr, "%d flags %d used %#x", v.index, v.flags, v.logGuest)
}
func (f *fakeDriver) memTable(_ int, r []memoryRegion) error {
	return f.call(reqSetMemTable, "%d regions, first %#x of %#x", len(r), r[0].guest, r[0].size)
}

func (f *fakeDriver) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

// setup makes two rings in fresh memory.
func setup(t *testing.T, features uint64) (Setup, *virtiotest.Ring, *virtiotest.Ring) {
	t.Helper()
	mem := virtiotest.NewMemory(t, 1<<20)
	rx := virtiotest.NewRing(t, mem, 0, 16)
	tx := virtiotest.NewRing(t, mem, 0x10000, 16)
	tr := virtiotest.NewTransport(t, mem, features, rx, tx)
	return Setup{Memory: mem, Features: tr.Env.Features, RX: tr.Env.Queues[0], TX: tr.Env.Queues[1], Tap: 99}, rx, tx
}

const allFeatures = ^uint64(0)

func TestStartStop(t *testing.T) {
	drv := &fakeDriver{features: allFeatures, base: 7}
	n, err := open(drv, -1)
	if err != nil {
		t.Fatal(err)
	}
	if n.Features() != RingFeatures {
		t.Errorf("features %#x", n.Features())
	}
	s, rx, _ := setup(t, virtio.FeatureEventIdx)
	s.TX.SetBase(3)
	if err := n.Start(s); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(s); err == nil {
		t.Error("started twice")
	}
	want := []string{
		"0xaf01 ", "0x8008af00 0xffffffffffffffff", "0x8008af26 0x2", "0x4008af00 0x120000000",
		"0x4008af03 1 regions, first 0x0 of 0x100000",
		"0x4008af10 0=16", "0x4008af12 0=0", fmt.Sprintf("0x4028af11 0 flags 0 used %#x", rx.Used),
		"0x4008af22 0 bound", "0x4008af21 0 bound", "0x4008af20 0 bound", "0x4008af30 0 bound",
		"0x4008af10 1=16", "0x4008af12 1=3", "0x4028af11 1 flags 0 used 0x10128",
		"0x4008af22 1 bound", "0x4008af21 1 bound", "0x4008af20 1 bound", "0x4008af30 1 bound",
	}
	if d := cmp.Diff(want, drv.take()); d != "" {
		t.Errorf("start (-want +got):\n%s", d)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	want = []string{
		"0x4008af30 0 unbound", "0x4008af30 1 unbound",
		"0xc008af12 0=7", "0x4008af20 0 unbound", "0x4008af21 0 unbound", "0x4008af22 0 unbound",
		"0xc008af12 1=7", "0x4008af20 1 unbound", "0x4008af21 1 unbound", "0x4008af22 1 unbound",
	}
	if d := cmp.Diff(want, drv.take()); d != "" {
		t.Errorf("stop (-want +got):\n%s", d)
	}
	if s.RX.Base() != 7 || s.TX.Base() != 7 {
		t.Errorf("bases %d and %d after stop", s.RX.Base(), s.TX.Base())
	}
	if err := n.Stop(); err != nil || len(drv.take()) != 0 {
		t.Errorf("second stop: %v", err)
	}
}

// TestPacked: both positions of a packed ring go to a kernel that has packed rings, and come back.
func TestPacked(t *testing.T) {
	drv := &fakeDriver{features: allFeatures, base: 0x00070007}
	n, err := open(drv, -1)
	if err != nil {
		t.Fatal(err)
	}
	s, _, _ := setup(t, virtio.FeatureRingPacked)
	if err := n.Start(s); err != nil {
		t.Fatal(err)
	}
	calls := drv.take()
	for _, want := range []string{"0x4008af00 0x500000000", fmt.Sprintf("0x4008af12 0=%d", 0x80008000)} {
		if !slices.Contains(calls, want) {
			t.Errorf("no %s in %q", want, calls)
		}
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if s.RX.Base() != 0x00070007 {
		t.Errorf("base %#x after stop", s.RX.Base())
	}
}

func TestStartFails(t *testing.T) {
	for _, req := range []uint{reqSetFeatures, reqSetMemTable, reqSetVringNum, reqSetVringBase, reqSetVringAddr, reqSetVringKick, reqNetSetBackend} {
		drv := &fakeDriver{features: allFeatures}
		n, err := open(drv, -1)
		if err != nil {
			t.Fatal(err)
		}
		drv.fail, drv.err = req, unix.EINVAL
		s, _, _ := setup(t, 0)
		if err := n.Start(s); !errors.Is(err, unix.EINVAL) {
			t.Errorf("request %#x: %v", req, err)
		}
		calls := drv.take()
		if last := calls[len(calls)-1]; last != "0x4008af30 1 unbound" {
			t.Errorf("request %#x: last call %s: the tap is still bound", req, last)
		}
		drv.fail = 0
		if err := n.Start(s); err != nil {
			t.Errorf("request %#x: start after failure: %v", req, err)
		}
		n.Stop()
	}
}

func TestOpenFails(t *testing.T) {
	for _, c := range []struct {
		drv  *fakeDriver
		text string
	}{
		{&fakeDriver{fail: reqSetOwner, err: unix.EBUSY}, "another process uses this descriptor"},
		{&fakeDriver{fail: reqGetFeatures, err: unix.EPERM}, "operation not permitted"},
		{&fakeDriver{features: 1}, "no virtio 1"},
	} {
		if _, err := open(c.drv, -1); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("error %v does not say %q", err, c.text)
		}
	}
	if _, err := open(&fakeDriver{features: allFeatures, fail: reqGetBackendFeatures, err: unix.ENOTTY}, -1); err != nil {
		t.Errorf("a kernel without backend features: %v", err)
	}
}

func TestBrokenRingIsReported(t *testing.T) {
	drv := &fakeDriver{features: allFeatures}
	n, err := open(drv, -1)
	if err != nil {
		t.Fatal(err)
	}
	s, _, _ := setup(t, 0)
	broken := make(chan error, 1)
	s.Broken = func(err error) { broken <- err }
	if err := n.Start(s); err != nil {
		t.Fatal(err)
	}
	unix.Write(drv.errorFD, one)
	if err := <-broken; !errors.Is(err, virtio.ErrMalformed) {
		t.Errorf("reported %v", err)
	}
	n.Stop()
}

func TestDirtyLog(t *testing.T) {
	drv := &fakeDriver{features: allFeatures}
	n, err := open(drv, -1)
	if err != nil {
		t.Fatal(err)
	}
	s, _, _ := setup(t, 0)
	if err := n.Start(s); err != nil {
		t.Fatal(err)
	}
	drv.take()
	if err := n.StartLog(s.Memory); err != nil {
		t.Fatal(err)
	}
	want := []string{"0x4008af04 log", "0x4028af11 0 flags 1 used 0x128", "0x4028af11 1 flags 1 used 0x10128", "0x4008af00 0x104000000"}
	if d := cmp.Diff(want, drv.take()); d != "" {
		t.Errorf("start of the log (-want +got):\n%s", d)
	}
	s.Memory.StartDirtyLog()
	n.log[0], n.log[31] = 0b101, 0x80 // the kernel wrote pages 0, 2 and 255
	n.CollectLog()
	bits := s.Memory.TakeDirty(0)
	if bits[0] != 5 || bits[3] != 1<<63 {
		t.Errorf("dirty pages %#x", bits)
	}
	n.CollectLog()
	if bits := s.Memory.TakeDirty(0); bits[0] != 0 {
		t.Errorf("dirty twice: %#x", bits)
	}
	n.log[0] = 2
	if err := n.StopLog(); err != nil {
		t.Fatal(err)
	}
	if bits := s.Memory.TakeDirty(0); bits[0] != 2 {
		t.Errorf("last pages are lost: %#x", bits)
	}
	if calls := drv.take(); calls[len(calls)-1] != "0x4008af00 0x100000000" {
		t.Errorf("the kernel still logs: %v", calls)
	}
	n.Stop()
}

// TestLabKernel moves packets through the real device.
func TestLabKernel(t *testing.T) {
	labtest.Need(t, labtest.VhostNet, labtest.Tun)
	f, err := os.OpenFile("/dev/vhost-net", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tap := taptest.New(t, 1)
	defer unix.Close(tap.FDs[0])
	if err := unix.IoctlSetPointerInt(tap.FDs[0], unix.TUNSETVNETHDRSZ, taptest.HeaderSize); err != nil {
		t.Fatal(err)
	}
	n, err := Open(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	s, rx, tx := setup(t, virtio.FeatureEventIdx|featureMrgRxbuf)
	s.Tap = tap.FDs[0]
	s.Broken = func(err error) { t.Error(err) }
	const out, in = 0x40000, 0x50000
	for round := range 4 { // stopped and started in between, the rings go on
		s.Memory.StartDirtyLog()
		begin := []func() error{func() error { return n.StartLog(s.Memory) }, func() error { return n.Start(s) }}
		if round%2 == 1 { // the log begins and ends while the rings run
			slices.Reverse(begin)
		}
		for _, f := range begin {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		frame := taptest.Frame(taptest.Peer, taptest.Guest, 100+round)
		if err := s.Memory.WriteAt(append(make([]byte, taptest.HeaderSize), frame...), out); err != nil {
			t.Fatal(err)
		}
		tx.Add(virtiotest.Buf{GPA: out, Len: uint32(taptest.HeaderSize + len(frame))})
		tx.Kick()
		if got := tap.Receive(); string(got) != string(frame) {
			t.Fatalf("round %d: sent %d bytes, got %d others", round, len(frame), len(got))
		}
		receive(t, s.Memory, rx, tap, in, round)
		if round%2 == 1 {
			if err := n.StopLog(); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		if s.TX.Base() != uint32(round+1) {
			t.Errorf("round %d: transmit base %d", round, s.TX.Base())
		}
		if bits := s.Memory.TakeDirty(0); bits[in/4096/64]>>(in/4096%64)&1 == 0 {
			t.Errorf("round %d: the received packet is not in the dirty log", round)
		}
	}
	if err := n.StopLog(); err != nil {
		t.Error(err)
	}
}

// receive waits for a test frame among the namespace's own chatter.
func receive(t *testing.T, mem *memory.Memory, rx *virtiotest.Ring, tap *taptest.Tap, in uint64, round int) {
	t.Helper()
	want := taptest.Frame(taptest.Guest, taptest.Peer, 200+round)
	tap.Send(want)
	for {
		rx.Add(virtiotest.Buf{GPA: in, Len: 2048, Write: true})
		rx.Kick()
		u := rx.WaitUsed(t)
		got := make([]byte, u.Len)
		if err := mem.ReadAt(got, in); err != nil || u.Len < taptest.HeaderSize {
			t.Fatalf("%d bytes received, %v", u.Len, err)
		}
		if string(got[taptest.HeaderSize:]) == string(want) {
			return
		}
		tap.Send(want)
	}
}

// TestLabKernelFeatures: Debian's kernels tell what they have before anybody owns the descriptor, and have no packed rings.
func TestLabKernelFeatures(t *testing.T) {
	labtest.Need(t, labtest.VhostNet)
	fd, err := unix.Open("/dev/vhost-net", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	features, err := KernelFeatures(fd)
	if err != nil || features&virtio.FeatureVersion1 == 0 || features&virtio.FeatureRingPacked != 0 {
		t.Errorf("features %#x, %v", features, err)
	}
}
