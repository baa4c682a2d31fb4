package net

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio/virtiotest"
)

// fixture is a device whose taps are sockets that keep packet boundaries, with a driver in front of it.
type fixture struct {
	t     testing.TB
	dev   *Device
	mem   *memory.Memory
	tr    *virtiotest.Transport
	rings []*virtiotest.Ring // rx0, tx0, rx1, tx1..., control
	host  []int              // the far ends of the taps
	next  uint64             // free guest memory
	tap   fakeTap
	pool  map[poolKey]virtiotest.Buf // receive buffers ever offered
	head  []byte                     // header of the last packet that receiveFrame returned
}

type poolKey struct {
	pair int
	head uint16
}

// fakeTap records what the device asks of its tap.
type fakeTap struct {
	mu       sync.Mutex
	offloads uint
	attached map[int]bool
	refuse   uint        // offloads the tap does not take
	program  int         // that chooses queues; 0 none was ever set, -1 none is
	stubborn bool        // the tap takes none
	headers  map[int]int // sizes by descriptor, where one was set
}

func (f *fakeTap) setOffloads(_ int, tun uint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if tun&f.refuse != 0 {
		return unix.EINVAL
	}
	f.offloads = tun
	return nil
}

func (f *fakeTap) steer(fd int, to bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.attached == nil {
		f.attached = map[int]bool{}
	}
	if was, known := f.attached[fd]; known && was == to {
		return unix.EINVAL
	}
	f.attached[fd] = to
	return nil
}

func (f *fakeTap) setHeader(fd, size int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.headers == nil {
		f.headers = map[int]int{}
	}
	f.headers[fd] = size
	return nil
}

func (f *fakeTap) setProgram(_, program int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stubborn {
		return unix.EINVAL
	}
	f.program = program
	return nil
}

func (f *fakeTap) state() (offloads uint, attached int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, on := range f.attached {
		if on {
			attached++
		}
	}
	return f.offloads, attached
}

const (
	ramSize  = 4 << 20
	ringSize = 64
	allNet   = ^uint64(0)
)

var testMAC = [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// newFixture makes a device of pairs queue pairs and activates it with the features of want that it offers.
func newFixture(t testing.TB, pairs int, want uint64, edit ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, mem: virtiotest.NewMemory(t, ramSize)}
	cfg := Config{ID: "net0", MAC: testMAC, MTU: 1500, Log: t.Logf}
	for range pairs {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Taps = append(cfg.Taps, fds[0])
		f.host = append(f.host, fds[1])
		t.Cleanup(func() { unix.Close(fds[1]) })
	}
	for _, e := range edit {
		e(&cfg)
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	var ops tapOps = &f.tap
	if cfg.Streams {
		pairs, ops = 1, noTap{}
	}
	dev, err := newDevice(cfg, ops)
	if err != nil {
		t.Fatal(err)
	}
	f.dev = dev
	t.Cleanup(dev.Close)
	for i := range 2*pairs + 1 {
		f.rings = append(f.rings, virtiotest.NewRing(t, f.mem, uint64(i)*virtiotest.Bytes(ringSize), ringSize))
	}
	f.next = 1 << 20
	f.tr = virtiotest.NewTransport(t, f.mem, dev.Features()&want, f.rings...)
	f.activate()
	return f
}

func (f *fixture) activate() {
	f.t.Helper()
	if err := f.dev.Activate(f.tr.Env); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(f.dev.Reset)
}

func (f *fixture) rx(pair int) *virtiotest.Ring     { return f.rings[2*pair] }
func (f *fixture) tx(pair int) *virtiotest.Ring     { return f.rings[2*pair+1] }
func (f *fixture) control() *virtiotest.Ring        { return f.rings[len(f.rings)-1] }
func (f *fixture) buffer(n uint32) virtiotest.Buf   { return virtiotest.Buf{GPA: f.alloc(n), Len: n} }
func (f *fixture) rxBuffer(n uint32) virtiotest.Buf { b := f.buffer(n); b.Write = true; return b }
func (f *fixture) read(gpa uint64, n uint32) []byte { return f.bytes(gpa, n) }

func (f *fixture) alloc(n uint32) uint64 {
	gpa := f.next
	f.next += uint64(n+15) &^ 15
	if f.next > ramSize {
		f.t.Fatal("fixture is out of guest memory")
	}
	return gpa
}

func (f *fixture) bytes(gpa uint64, n uint32) []byte {
	f.t.Helper()
	b := make([]byte, n)
	if err := f.mem.ReadAt(b, gpa); err != nil {
		f.t.Fatal(err)
	}
	return b
}

// put stores p in guest memory as a buffer.
func (f *fixture) put(p []byte) virtiotest.Buf {
	f.t.Helper()
	b := f.buffer(uint32(len(p)))
	if err := f.mem.WriteAt(p, b.GPA); err != nil {
		f.t.Fatal(err)
	}
	return b
}

// header is the size of the header in front of each packet.
func (f *fixture) header() int { return int(f.dev.taps[0].header) }

// fromHost sends a packet to the device, header first as a tap does.
func (f *fixture) fromHost(pair int, frame []byte) {
	f.t.Helper()
	p := append(make([]byte, f.header()), frame...)
	for {
		_, err := unix.Write(f.host[pair], p)
		if err == unix.EAGAIN {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			f.t.Fatalf("send to device: %v", err)
		}
		return
	}
}

// toHost waits for a packet of the device and returns it with its header.
func (f *fixture) toHost(pair int) []byte {
	f.t.Helper()
	fds := []unix.PollFd{{Fd: int32(f.host[pair]), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 10000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			f.t.Fatalf("no packet from the device: %v", err)
		}
		break
	}
	p := make([]byte, 1<<18)
	n, err := unix.Read(f.host[pair], p)
	if err != nil {
		f.t.Fatalf("receive from device: %v", err)
	}
	return p[:n]
}

// hostHasNothing checks that the device sent no packet. Call it after something that comes later arrived.
func (f *fixture) hostHasNothing(pair int) {
	f.t.Helper()
	var p [16]byte
	if n, err := unix.Read(f.host[pair], p[:]); err != unix.EAGAIN {
		f.t.Errorf("unexpected packet of %d bytes, %v", n, err)
	}
}

// run executes a control command and returns the answer.
func (f *fixture) command(class, cmd byte, data []byte) byte {
	f.t.Helper()
	head, ack := f.put(append([]byte{class, cmd}, data...)), f.rxBuffer(1)
	f.mem.WriteAt([]byte{0xee}, ack.GPA)
	f.control().Add(head, ack)
	f.control().Kick()
	if u := f.control().WaitUsed(f.t); u.Len != 1 {
		f.t.Errorf("control command wrote %d bytes", u.Len)
	}
	return f.bytes(ack.GPA, 1)[0]
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}

// receiveFrame waits for one packet in chains of one buffer each and returns it without header.
func (f *fixture) receiveFrame(pair int, bufs map[uint16]virtiotest.Buf) []byte {
	f.t.Helper()
	var out []byte
	count := 1
	for i := 0; i < count; i++ {
		u := f.rx(pair).WaitUsed(f.t)
		b, ok := bufs[uint16(u.ID)]
		if !ok {
			b, ok = f.pool[poolKey{pair, uint16(u.ID)}]
		}
		if !ok || u.Len > b.Len {
			f.t.Fatalf("used element %+v is none of the buffers", u)
		}
		part := f.bytes(b.GPA, u.Len)
		if i == 0 {
			if u.Len < uint32(f.header()) {
				f.t.Fatalf("first part of %d bytes", u.Len)
			}
			count = int(binary.LittleEndian.Uint16(part[numBuffersAt:]))
			f.head, part = part[:f.header()], part[f.header():]
		}
		out = append(out, part...)
	}
	return out
}

// offerRx makes n receive buffers of size bytes available, one a chain.
func (f *fixture) offerRx(pair, n int, size uint32) map[uint16]virtiotest.Buf {
	bufs := map[uint16]virtiotest.Buf{}
	if f.pool == nil {
		f.pool = map[poolKey]virtiotest.Buf{}
	}
	for range n {
		b := f.rxBuffer(size)
		head := f.rx(pair).Add(b)
		bufs[head] = b
		f.pool[poolKey{pair, head}] = b
	}
	f.rx(pair).Kick()
	return bufs
}

func wantBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes differ from the %d expected", what, len(got), len(want))
	}
}

// wantStats waits for counters that are written after the packets they count.
func (f *fixture) wantStats(ok func(Stats) bool) {
	f.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(f.dev.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Errorf("statistics stay %+v", f.dev.Stats())
			return
		}
	}
}
