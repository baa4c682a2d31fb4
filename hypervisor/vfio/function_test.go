package vfio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/bus"
	"virtd/hypervisor/interrupt"
	"virtd/hypervisor/pci"
)

// fakeDevice is a function of the host in memory: BAR 0 of 16 KiB that can be mapped, BAR 3 of 16 KiB with the MSI-X table in
// its first page and the pending bits in its third, and configuration space.
type fakeDevice struct {
	config   []byte
	regions  [7]Region
	pins     int
	requests bool
	notice   int
	msi      int
	msixN    int
	irqs     []string // calls of SetInterrupts
	fds      []int
	resets   int
	mapped   int
	writes   map[int][]byte // to configuration space, by offset
	closed   bool
	mapErr   error
	rom      []byte
	romErr   error
	romReads int
	noSleep  bool // it stays in D0
}

func newFake() *fakeDevice {
	d := &fakeDevice{config: make([]byte, express), msixN: 3, writes: map[int][]byte{}}
	le := binary.LittleEndian
	le.PutUint32(d.config, 0x10ca8086)
	le.PutUint16(d.config[regStatus:], statusCaps)
	le.PutUint32(d.config[0x08:], 0x02000001)
	d.config[regHeaderType] = headerMulti
	le.PutUint32(d.config[0x10:], 0x4) // 64-bit
	le.PutUint32(d.config[0x1c:], 0x4) // 64-bit
	le.PutUint32(d.config[0x2c:], 0xa03c8086)
	d.config[regCapPointer] = 0x50
	copy(d.config[0x50:], []byte{capMSI, 0x70, 0x80, 0x00})
	copy(d.config[0x70:], []byte{capMSIX, 0xa0, 0x02, 0x00, 0x03, 0, 0, 0, 0x03, 0x20, 0, 0})
	copy(d.config[0xa0:], []byte{0x10, 0x00, 0x02, 0x00, 1, 2, 3, 4})
	le.PutUint32(d.config[0x100:], 0x15010001) // AER, next 0x150
	le.PutUint32(d.config[0x150:], 0x1600000e) // ARI, next 0x160
	le.PutUint32(d.config[0x160:], 0x1700_0010|0<<20)
	le.PutUint32(d.config[0x160:], 0x17010010) // SR-IOV, next 0x170
	le.PutUint32(d.config[0x170:], 0x00010003) // serial number, last
	d.regions[0] = Region{Size: 16 << 10, Mmap: []Area{{0, 16 << 10}}}
	d.regions[3] = Region{Size: 16 << 10, Mmap: []Area{{0, 16 << 10}}}
	d.regions[6] = Region{Size: express}
	return d
}

func (d *fakeDevice) Regions() [7]Region       { return d.regions }
func (d *fakeDevice) Vectors() (int, int, int) { return d.pins, d.msi, d.msixN }
func (d *fakeDevice) Read(region int, p []byte, offset uint64) {
	for i := range p {
		p[i] = 0xff
		if at := int(offset) + i; region == 6 && at < len(d.config) {
			p[i] = d.config[at]
		}
	}
}
func (d *fakeDevice) Write(region int, p []byte, offset uint64) {
	if region == 6 {
		d.writes[int(offset)] = slices.Clone(p)
		copy(d.config[offset:], p)
		if d.noSleep {
			d.config[fakePower] &^= 3
		}
	}
}

// fakePower is where the fake has its power management register, behind a capability that the list has only when asked for.
const fakePower = 0xc4

// addPower puts the power management capability at the end of the list.
func (d *fakeDevice) addPower() {
	d.config[0xa1] = 0xc0
	copy(d.config[0xc0:], []byte{0x01, 0x00, 0x03, 0x00, 0x08, 0x00})
}

// answers reports whether the kernel lets anybody at the device's memory: else an access to what is mapped of it ends the
// process (SIGBUS).
func (d *fakeDevice) answers() bool {
	return d.config[regCommand]&commandMemory != 0 && d.config[fakePower]&3 == 0
}
func (d *fakeDevice) ROMSize() uint64 { return uint64(len(d.rom)) }
func (d *fakeDevice) ReadROM(p []byte) (int, error) {
	d.romReads++
	return copy(p, d.rom), d.romErr
}
func (d *fakeDevice) Map(_ int, a Area) ([]byte, error) {
	if d.mapErr != nil {
		return nil, d.mapErr
	}
	d.mapped++
	return make([]byte, a.Size), nil
}
func (d *fakeDevice) Unmap([]byte) error { d.mapped--; return nil }
func (d *fakeDevice) SetInterrupts(msix bool, fds []int) error {
	kind := "msi"
	if msix {
		kind = "msix"
	}
	if len(fds) == 0 {
		kind += " off"
	}
	d.irqs, d.fds = append(d.irqs, kind), slices.Clone(fds)
	return nil
}
func (d *fakeDevice) SetINTx(signal, unmask int) error {
	kind := "intx"
	if signal < 0 {
		kind += " off"
	}
	d.irqs, d.fds = append(d.irqs, kind), []int{signal, unmask}
	return nil
}
func (d *fakeDevice) Notifies(n Notice) bool { return n == NoticeRequest && d.requests }
func (d *fakeDevice) SetNotice(n Notice, fd int) error {
	d.notice = fd
	return nil
}
func (d *fakeDevice) Reset() error { d.resets++; return nil }
func (d *fakeDevice) Close() error { d.closed = true; return nil }

// fakeSlots remembers what is mapped where.
type fakeSlots struct {
	at      map[int][2]uint64
	next    int
	changed func(what string) // may be nil
}

func (s *fakeSlots) Add(gpa uint64, host []byte) (int, error) {
	s.next++
	s.at[s.next] = [2]uint64{gpa, uint64(len(host))}
	if s.changed != nil {
		s.changed("add")
	}
	return s.next, nil
}
func (s *fakeSlots) Remove(slot int) error {
	delete(s.at, slot)
	if s.changed != nil {
		s.changed("remove")
	}
	return nil
}

func (s *fakeSlots) ranges() (out [][2]uint64) {
	for _, r := range s.at {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b [2]uint64) int { return int(int64(a[0]) - int64(b[0])) })
	return out
}

type fakeMSI struct {
	fd      int
	address uint64
	data    uint32
	open    bool
	refuses bool
}

func (m *fakeMSI) Configure(a uint64, d uint32) error {
	if m.refuses {
		return errors.New("no such message")
	}
	m.address, m.data = a, d
	return nil
}
func (m *fakeMSI) Mask() error   { m.open = false; return nil }
func (m *fakeMSI) Unmask() error { m.open = true; return nil }
func (m *fakeMSI) Pending() bool { return false }
func (m *fakeMSI) FD() int       { return m.fd }
func (m *fakeMSI) Signal()       {}
func (m *fakeMSI) Close() error  { return nil }

type fakeController struct {
	made    []*fakeMSI
	refuses bool
	level   *fakeLevel
}

func (c *fakeController) Line(uint32) interrupt.Line { return nil }
func (c *fakeController) NewMSI() (interrupt.MSI, error) {
	m := &fakeMSI{fd: 100 + len(c.made), refuses: c.refuses}
	c.made = append(c.made, m)
	return m, nil
}

// rig is a function behind a host bridge.
type rig struct {
	dev    *fakeDevice
	slots  *fakeSlots
	irq    *fakeController
	router *fakeRouter
	f      *Function
	root   *pci.Root
	memory bus.Space
}

func newRig(t *testing.T, dev *fakeDevice) *rig {
	t.Helper()
	return newRigWith(t, dev, Config{})
}

// newRigWith is newRig with more of a Config.
func newRigWith(t *testing.T, dev *fakeDevice, c Config) *rig {
	t.Helper()
	r := &rig{dev: dev, slots: &fakeSlots{at: map[int][2]uint64{}}, irq: &fakeController{}, router: &fakeRouter{}}
	c.Name, c.Device, c.Slots, c.Interrupts, c.Levels = "hostdev0", dev, r.slots, r.irq, r.irq
	if c.Logf == nil {
		c.Logf = t.Logf
	}
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r.f = f
	r.root = addToRoot(t, f, &r.memory, r.router)
	return r
}

// addToRoot puts a function behind a host bridge.
func addToRoot(t *testing.T, f *Function, memory *bus.Space, router pci.Router) *pci.Root {
	t.Helper()
	root := pci.NewRoot(pci.RootConfig{Memory: memory, Ports: &bus.Space{}, Interrupts: router})
	if err := root.Add(pci.Address{Slot: 3}, f.PCI()); err != nil {
		t.Fatal(err)
	}
	return root
}

func (r *rig) read32(at int) uint32 {
	var p [4]byte
	r.f.PCI().ConfigRead(at, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

func (r *rig) write(at int, p ...byte) { r.f.PCI().ConfigWrite(at, p) }

// place gives BARs 0 and 3 addresses and lets them be decoded.
func (r *rig) place() {
	r.write(0x10, 0, 0, 0, 0xe0)
	r.write(0x1c, 0, 0, 0x10, 0xe0)
	r.write(regCommand, 6, 0)
}

func TestConfigSpace(t *testing.T) {
	r := newRig(t, newFake())
	for _, c := range []struct {
		what string
		at   int
		want uint32
	}{
		{"identity", 0, 0x10ca8086}, {"class", 8, 0x02000001}, {"subsystem", 0x2c, 0xa03c8086}, {"no ROM", regROM, 0}, {"no pin", 0x3c, 0},
		{"the list begins at MSI-X, as MSI is hidden", regCapPointer, 0x70}, {"MSI-X leads on", 0x70, 0x0002a011}, {"PCI Express is last", 0xa0, 0x00020010},
		{"AER leads past what is hidden", 0x100, 0x17010001}, {"the serial number is last", 0x170, 0x00010003},
	} {
		if got := r.read32(c.at); got != c.want {
			t.Errorf("%s: %#08x at %#x, want %#08x", c.what, got, c.at, c.want)
		}
	}
	if got := r.read32(0x0c) >> 16 & 0xff; got != 0 {
		t.Errorf("header type %#x: a function of its own is not multi-function", got)
	}
	r.dev.config[0xa4] = 9 // the device changes its register
	if got := r.read32(0xa4); got != 0x04030209 {
		t.Errorf("device's register %#x", got)
	}
	r.write(0xa5, 7, 8)
	if !slices.Equal(r.dev.writes[0xa5], []byte{7}) || !slices.Equal(r.dev.writes[0xa6], []byte{8}) {
		t.Errorf("written to the device: %v", r.dev.writes)
	}
	r.write(0xa1, 0x55) // the list is not the guest's
	r.write(0x00, 1, 2, 3, 4)
	if r.read32(0xa0) != 0x00020010 || r.read32(0) != 0x10ca8086 {
		t.Error("a guest changed the capability list or the identity")
	}
}

func TestBARsAreMapped(t *testing.T) {
	r := newRig(t, newFake())
	r.place()
	want := [][2]uint64{{0xe0000000, 16 << 10}, {0xe0101000, 4 << 10}, {0xe0103000, 4 << 10}} // without the table's and the pending bits' pages
	if got := r.slots.ranges(); !slices.Equal(got, want) {
		t.Errorf("mapped %#x, want %#x", got, want)
	}
	if !slices.Equal(r.dev.writes[regCommand], []byte{6, 0}) {
		t.Errorf("COMMAND reached the device as %v", r.dev.writes[regCommand])
	}
	r.write(regCommand, 0, 0)
	if len(r.slots.at) != 0 || r.dev.mapped != 0 {
		t.Errorf("still mapped: %v, %d", r.slots.at, r.dev.mapped)
	}
	if !slices.Equal(r.dev.writes[regCommand], []byte{0, 0}) {
		t.Error("the device decodes on")
	}
}

// When nothing can be mapped, accesses go through the kernel.
func TestBARsAreTrapped(t *testing.T) {
	dev := newFake()
	dev.mapErr = errors.New("no")
	r := newRig(t, dev)
	r.place()
	p := []byte{0, 0, 0, 0}
	if !r.memory.Read(0xe0000010, p) || p[0] != 0xff || len(r.slots.at) != 0 {
		t.Errorf("read %v, mapped %v", p, r.slots.at)
	}
}

func TestMSIX(t *testing.T) {
	r := newRig(t, newFake())
	r.place()
	entry := []byte{0, 0x10, 0xe0, 0xfe, 0, 0, 0, 0}
	r.memory.Write(0xe0100010, entry) // vector 1
	r.memory.Write(0xe0100018, []byte{0x42, 0, 0, 0, 0, 0, 0, 0})
	r.write(0x72, 0x02, 0x80)
	if !slices.Equal(r.dev.irqs, []string{"msix"}) || !slices.Equal(r.dev.fds, []int{100, 101, 102}) {
		t.Fatalf("interrupts %v %v", r.dev.irqs, r.dev.fds)
	}
	if m := r.irq.made[1]; !m.open || m.address != 0xfee01000 || m.data != 0x42 {
		t.Errorf("vector 1: %+v", m)
	}
	if r.irq.made[0].open {
		t.Error("a masked vector delivers")
	}
	r.f.PCI().Reset()
	if !slices.Equal(r.dev.irqs, []string{"msix", "msix off"}) || r.dev.resets != 1 || len(r.slots.at) != 0 {
		t.Errorf("after a reset: interrupts %v, %d resets, mapped %v", r.dev.irqs, r.dev.resets, r.slots.at)
	}
	r.place()
	r.write(0x72, 0x02, 0x80)
	if err := r.f.Close(); err != nil || !r.dev.closed || r.dev.irqs[len(r.dev.irqs)-1] != "msix off" || r.dev.mapped != 0 {
		t.Errorf("closed: %v, %v, %v", err, r.dev.closed, r.dev.irqs)
	}
}

func TestMSI(t *testing.T) {
	dev := newFake()
	dev.config[0x51] = 0xa0 // no MSI-X in the list
	dev.config[0x52] = 0x86 // eight vectors, 64-bit address
	dev.msi = 8
	r := newRig(t, dev)
	r.write(0x54, 0x00, 0x10, 0xe0, 0xfe)
	r.write(0x5c, 0x30, 0)
	r.write(0x52, 0x11, 0) // on, two vectors
	if len(dev.irqs) != 0 {
		t.Error("a function that is no bus master signals")
	}
	r.write(regCommand, 4, 0)
	if !slices.Equal(dev.irqs, []string{"msi"}) || !slices.Equal(dev.fds, []int{100, 101}) {
		t.Fatalf("interrupts %v %v", dev.irqs, dev.fds)
	}
	if a, b := r.irq.made[0], r.irq.made[1]; !a.open || !b.open || a.address != 0xfee01000 || a.data != 0x30 || b.data != 0x31 {
		t.Errorf("vectors %+v %+v", a, b)
	}
	r.write(0x52, 0x10, 0)
	if dev.irqs[len(dev.irqs)-1] != "msi off" || r.irq.made[0].open {
		t.Errorf("after off: %v", dev.irqs)
	}
}

// A guest can write messages that no controller takes as often as it likes; the log says some of it.
func TestGuestCannotFillTheLog(t *testing.T) {
	dev := newFake()
	dev.config[0x51] = 0xa0 // no MSI-X in the list
	dev.config[0x52] = 0x86 // eight vectors, 64-bit address
	dev.msi = 8
	lines := 0
	irq := &fakeController{refuses: true}
	f, err := New(Config{Name: "hostdev0", Device: dev, Slots: &fakeSlots{}, Interrupts: irq, Logf: func(string, ...any) { lines++ }})
	if err != nil {
		t.Fatal(err)
	}
	f.PCI().ConfigWrite(0x52, []byte{0x11, 0})
	f.PCI().ConfigWrite(regCommand, []byte{4, 0})
	start := time.Now()
	for i := range 1000 {
		f.PCI().ConfigWrite(0x5c, []byte{byte(i), 0})
	}
	if seconds := int(time.Since(start)/time.Second) + 2; lines == 0 || lines > seconds*logLinesPerSecond {
		t.Errorf("%d lines in less than %d seconds", lines, seconds)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(d *fakeDevice)
		says   string
	}{
		{"gone", func(d *fakeDevice) { copy(d.config, []byte{0xff, 0xff, 0xff, 0xff}) }, "it is gone"},
		{"a bridge", func(d *fakeDevice) { d.config[regHeaderType] = 1 }, "no endpoint"},
		{"no interrupts", func(d *fakeDevice) { d.msixN = 0 }, "it has no interrupts"},
		{"odd BAR", func(d *fakeDevice) { d.regions[0].Size = 12345 }, "BAR 0 of 0x3039 bytes"},
		{"table outside", func(d *fakeDevice) { d.config[0x75] = 0x40 }, "MSI-X table is not in one of its BARs"},
		{"table in no BAR", func(d *fakeDevice) { d.config[0x74] = 7 }, "MSI-X table is not in one of its BARs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newFake()
			c.change(d)
			_, err := New(Config{Device: d, Slots: &fakeSlots{}, Interrupts: &fakeController{}})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
}

func TestSparseAreas(t *testing.T) {
	text := make([]byte, 96)
	le := binary.NativeEndian
	le.PutUint16(text[32:], 3) // MSI-X can be mapped, next 48
	le.PutUint32(text[36:], 48)
	le.PutUint16(text[48:], capSparseMmap)
	le.PutUint32(text[56:], 2)
	le.PutUint64(text[64:], 0x1000)
	le.PutUint64(text[72:], 0x2000)
	le.PutUint64(text[80:], 0x9000)
	le.PutUint64(text[88:], 0x9000) // beyond the region
	if got, ok := sparseAreas(text, 32, 0x10000); !ok || !slices.Equal(got, []Area{{0x1000, 0x2000}}) {
		t.Errorf("areas %v, %v", got, ok)
	}
	le.PutUint32(text[36:], 32) // a list that does not end
	if _, ok := sparseAreas(text, 32, 0x10000); ok {
		t.Error("found something in a ring")
	}
}

// A guest that puts its device to sleep does not reach its memory any more, nor do other devices; before it wakes up, and when
// it does not, nobody does.
func TestPower(t *testing.T) {
	dev := newFake()
	dev.addPower()
	r := newRig(t, dev)
	var order []string
	r.slots.changed = func(what string) { order = append(order, fmt.Sprintf("%s %v", what, dev.answers())) }
	r.place()
	order = nil
	r.write(fakePower, 3, 0) // D3hot
	if dev.config[fakePower]&3 != 3 || len(r.slots.at) != 0 {
		t.Errorf("asleep: state %d, mapped %v", dev.config[fakePower]&3, r.slots.at)
	}
	if want := []string{"remove true", "remove true", "remove true"}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
	p := []byte{0}
	if r.memory.Read(0xe0000010, p) {
		t.Error("a sleeping device decodes its memory")
	}
	order = nil
	r.write(fakePower, 0, 0)
	if want := []string{"add true", "add true", "add true"}; !slices.Equal(order, want) || dev.config[fakePower]&3 != 0 {
		t.Errorf("awake: %q, want %q; state %d", order, want, dev.config[fakePower]&3)
	}
	dev.noSleep = true
	r.write(fakePower, 3, 0)
	if len(r.slots.at) != 3 || r.read32(fakePower)&3 != 0 {
		t.Errorf("a device that does not sleep: state %#x, mapped %v", r.read32(fakePower), r.slots.at)
	}
}

func TestROM(t *testing.T) {
	image := append([]byte{0x55, 0xaa, 3}, bytes.Repeat([]byte{0x90}, 1533)...)
	for _, c := range []struct {
		name   string
		device []byte
		err    error
		file   []byte
		none   bool
		size   uint32 // of the register
		reads  byte   // at offset 3
		wants  int    // reads of the device
	}{
		{"the device's", append(slices.Clone(image), make([]byte, 2560)...), nil, nil, false, 4096, 0x90, 1},
		{"a file in place of it", make([]byte, 64<<10), nil, image, false, 2048, 0x90, 0},
		{"a file where there is none", nil, nil, image, false, 2048, 0x90, 0},
		{"none", nil, nil, nil, false, 0, 0, 0},
		{"off", image, nil, image, true, 0, 0, 0},
		{"no signature", make([]byte, 2048), nil, nil, false, 2048, 0xff, 1},
		{"fails", bytes.Repeat([]byte{0x55}, 2048), unix.EIO, nil, false, 2048, 0xff, 1},
		{"tiny", []byte{0x55, 0xaa, 1, 0x90}, nil, nil, false, 2048, 0x90, 1},
		{"larger than one can be", make([]byte, 32<<20), nil, nil, false, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := newFake()
			dev.rom, dev.romErr = c.device, c.err
			r := newRigWith(t, dev, Config{ROM: c.file, NoROM: c.none})
			r.write(regROM, 0xff, 0xff, 0xff, 0xff)
			if got := r.read32(regROM); got != -c.size&^1|min(c.size, 1) {
				t.Fatalf("register %#08x for %d bytes", got, c.size)
			}
			r.place()
			r.write(regROM, 1, 0, 0x20, 0xe0)
			p := []byte{0, 0}
			there := r.memory.Read(0xe0200000, p[:1]) && r.memory.Read(0xe0200003, p[1:])
			if there != (c.size > 0) || there && p[1] != c.reads {
				t.Errorf("there: %v, reads %#x", there, p)
			}
			if there && c.reads != 0xff && p[0] != 0x55 {
				t.Errorf("begins with %#x", p[0])
			}
			last := []byte{0, 0, 0, 0, 0, 0, 0, 0}
			if there && (!r.memory.Read(0xe0200000+uint64(c.size)-8, last) || c.file != nil && last[7] != 0xff) {
				t.Errorf("ends with %#x", last)
			}
			r.memory.Write(0xe0200003, []byte{1})
			if dev.romReads != c.wants {
				t.Errorf("the device's was read %d times, want %d", dev.romReads, c.wants)
			}
			r.write(regCommand, 0, 0)
			if r.memory.Read(0xe0200000, p) {
				t.Error("decoded while memory is off")
			}
		})
	}
}

func TestCheckROM(t *testing.T) {
	for _, c := range []struct {
		image []byte
		ok    bool
	}{
		{nil, false}, {[]byte{0x55}, false}, {[]byte{0x55, 0xaa}, false}, {[]byte{0xaa, 0x55, 1}, false}, {[]byte{0x55, 0xaa, 1}, true},
		{append([]byte{0x55, 0xaa}, make([]byte, MaxROM-2)...), true}, {append([]byte{0x55, 0xaa}, make([]byte, MaxROM-1)...), false},
	} {
		if err := CheckROM(c.image); (err == nil) != c.ok {
			t.Errorf("%d bytes: %v", len(c.image), err)
		}
	}
}

// A guest can write anything anywhere in configuration space, to the MSI-X structures, to what is mapped and to the ROM, and move
// its BARs: the identity and the lists stay, nothing is mapped that the kernel would not let it reach, and closing gives all
// back.
func FuzzGuest(f *testing.F) {
	f.Add([]byte{0x04, 0, 6, 0x72, 0, 0x80, 0x10, 0, 0xe0})
	f.Add([]byte{0x10, 0xff, 0xff, 0x04, 0x02, 0xff})
	f.Add([]byte{0x13, 0, 0xe0, 0x04, 0, 6, 0xc4, 0, 3, 0xc4, 0, 0, 0x04, 0, 0})
	f.Add([]byte{0x1f, 0, 0xe0, 0x32, 0x10, 0x01, 0x04, 0x20, 6, 0xc4, 0x40, 2, 0x1f, 0x70, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		dev := newFake()
		dev.addPower()
		dev.pins, dev.config[regInterruptPin] = 1, 1
		dev.rom = bytes.Repeat([]byte{0x55, 0xaa}, 1024)
		iommu := &fakeIOMMU{reach: client, mapped: map[uint64]uint64{}}
		r := newRigWith(t, dev, Config{Peers: newContainer(iommu), Logf: func(string, ...any) {}})
		lists := [2]uint32{r.read32(0x70) & 0xffff, r.read32(0x100)}
		for len(ops) >= 3 {
			at, width, v := int(ops[0])|int(ops[1]&0x0f)<<8, 1<<(ops[1]>>4&3), ops[2]
			r.write(at, []byte{v, ^v, v, v ^ 0x55, v, ^v, v, v}[:width]...)
			r.read32(at)
			for _, base := range []uint64{0xe0000000, 0xe0100000, uint64(r.read32(0x1c) &^ 15), uint64(r.read32(regROM) &^ 2047)} {
				r.memory.Write(base+uint64(at), []byte{v, v, v, v})
				r.memory.Read(base+uint64(at), []byte{0, 0, 0, 0, 0, 0, 0, 0}[:width])
			}
			if len(r.slots.at) > 0 && !dev.answers() {
				t.Fatalf("mapped for the guest while the device does not answer: %#x", r.slots.at)
			}
			if len(iommu.mapped) > len(r.slots.at) {
				t.Fatalf("other devices reach %#x, the guest %#x", iommu.mapped, r.slots.at)
			}
			ops = ops[3:]
		}
		if r.read32(0) != 0x10ca8086 || lists != [2]uint32{r.read32(0x70) & 0xffff, r.read32(0x100)} {
			t.Error("the identity or a list changed")
		}
		if err := r.f.Close(); err != nil || r.dev.mapped != 0 || len(iommu.mapped) != 0 {
			t.Errorf("closed: %v, %d mapped, %v for other devices", err, r.dev.mapped, iommu.mapped)
		}
	})
}
