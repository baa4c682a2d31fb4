package pci

import (
	"errors"
	"sync"
	"testing"

	"virtd/hypervisor/bus"
	"virtd/hypervisor/interrupt"
)

// fakeController is an interrupt.Controller in memory.
type fakeController struct {
	mu    sync.Mutex
	lines map[uint32]map[*fakeLine]bool
	left  int // MSIs to hand out, negative for no limit
}

func newController() *fakeController {
	return &fakeController{lines: map[uint32]map[*fakeLine]bool{}, left: -1}
}

type fakeLine struct {
	c   *fakeController
	gsi uint32
}

func (l *fakeLine) Set(high bool) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.c.lines[l.gsi] == nil {
		l.c.lines[l.gsi] = map[*fakeLine]bool{}
	}
	l.c.lines[l.gsi][l] = high
}

func (c *fakeController) level(gsi uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, high := range c.lines[gsi] {
		if high {
			return true
		}
	}
	return false
}

func (c *fakeController) Line(gsi uint32) interrupt.Line { return &fakeLine{c, gsi} }

func (c *fakeController) NewMSI() (interrupt.MSI, error) {
	if c.left == 0 {
		return nil, errors.New("no more")
	}
	c.left--
	return &fakeMSI{masked: true}, nil
}

type fakeMSI struct {
	address    uint64
	data       uint32
	masked     bool
	pending    bool
	closed     bool
	delivered  int
	configured int
	refuse     bool
}

func (m *fakeMSI) Configure(a uint64, d uint32) error {
	if m.refuse {
		return errors.New("refused")
	}
	m.address, m.data = a, d
	m.configured++
	return nil
}
func (m *fakeMSI) Mask() error { m.masked = true; return nil }
func (m *fakeMSI) Unmask() error {
	m.masked = false
	if m.pending {
		m.pending = false
		m.delivered++
	}
	return nil
}
func (m *fakeMSI) Pending() bool { return m.pending }
func (m *fakeMSI) FD() int       { return -1 }
func (m *fakeMSI) Signal() {
	if m.masked {
		m.pending = true
	} else {
		m.delivered++
	}
}
func (m *fakeMSI) Close() error { m.closed = true; return nil }

// ram is a bus.Device that remembers bytes.
type ram struct{ data [65536]byte }

func (r *ram) Read(off uint64, p []byte) {
	clear(p)
	if off < uint64(len(r.data)) {
		copy(p, r.data[off:])
	}
}
func (r *ram) Write(off uint64, p []byte) {
	if off < uint64(len(r.data)) {
		copy(r.data[off:], p)
	}
}

const lowRAM = 0x8000_0000

var testWindows = Windows{ECAM: 0xe000_0000, Memory32: Range{0x8000_0000, 0x6000_0000},
	Memory64: Range{0x80_0000_0000, 1 << 35}, IO: Range{0xc000, 0x4000}, PMBase: 0x600}

type board struct {
	*Root
	memory, ports bus.Space
	controller    *fakeController
	q35           *Q35
	log           []string
}

func (b *board) config() RootConfig {
	return RootConfig{Memory: &b.memory, Ports: &b.ports,
		Reserved: []Range{{0, lowRAM}, {0xfec0_0000, 0x1000}, {0xfee0_0000, 0x10_0000}},
		Logf:     func(format string, args ...any) { b.log = append(b.log, format) }}
}

func newBoard(t testing.TB) *board {
	t.Helper()
	b := &board{controller: newController()}
	q, err := NewQ35(Q35Config{RootConfig: b.config(), Controller: b.controller, PM: &ram{}})
	if err != nil {
		t.Fatal(err)
	}
	b.Root, b.q35 = q.Root, q
	return b
}

// testFunction is a device of every kind of BAR with MSI-X and a pin.
func testFunction(t testing.TB, c interrupt.Controller, express bool) (*Function, *MSIX) {
	t.Helper()
	f := NewFunction(Identity{Vendor: 0x1af4, Device: 0x1041, Revision: 1, Class: 0x020000, SubVendor: 0x1af4, SubDevice: 0x1100})
	f.UseINTx(1)
	f.AddBAR(BAR{Index: 0, Kind: IO, Size: 64, Device: &ram{}})
	f.AddBAR(BAR{Index: 1, Kind: Memory32, Size: 4096})
	f.AddBAR(BAR{Index: 4, Kind: Memory64, Prefetchable: true, Size: 16384, Device: &ram{}})
	m, err := f.AddMSIX(4, c, 1, 0, 0x800)
	if err != nil {
		t.Fatal(err)
	}
	if express {
		f.AddExpress(ExpressEndpoint, 0)
		f.AddPowerManagement()
	}
	f.AddVendorCapability([]byte{1, 4, 0, 0, 0}, nil)
	return f, m
}
