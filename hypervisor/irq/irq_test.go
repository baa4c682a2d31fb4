package irq

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/interrupt"
	"virtd/hypervisor/kvm"
)

func newVM(t *testing.T) *kvm.VM {
	t.Helper()
	sys, err := kvm.Open()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
		t.Skipf("needs /dev/kvm: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	vm, err := sys.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close(); sys.Close() })
	if err := vm.CreateIRQChip(); err != nil {
		t.Fatal(err)
	}
	return vm
}

func newController(t *testing.T) (*Controller, *kvm.VM) {
	t.Helper()
	vm := newVM(t)
	c, err := New(vm, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return c, vm
}

// inputs returns which IOAPIC inputs are high: the request register behind base, select and ID.
func inputs(t *testing.T, vm *kvm.VM) uint32 {
	t.Helper()
	chip, err := vm.IRQChip(kvm.ChipIOAPIC)
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(chip.State[16:])
}

func TestLinesShareAPin(t *testing.T) {
	c, vm := newController(t)
	a, b := c.Line(20), c.Line(20)
	a.Set(true)
	a.Set(true)
	b.Set(true)
	a.Set(false)
	if got := inputs(t, vm); got != 1<<20 {
		t.Errorf("inputs %#x while one share is high", got)
	}
	b.Set(false)
	if got := inputs(t, vm); got != 0 {
		t.Errorf("inputs %#x after all shares went low", got)
	}
	timer := c.Line(0)
	timer.Set(true)
	if got := inputs(t, vm); got != 1<<2 {
		t.Errorf("the timer reaches inputs %#x, want input 2", got)
	}
	c.Line(Pins + 5).Set(true) // reaches nothing
}

func TestReapply(t *testing.T) {
	c, vm := newController(t)
	chip, err := vm.IRQChip(kvm.ChipIOAPIC)
	if err != nil {
		t.Fatal(err)
	}
	c.Line(17).Set(true)
	if err := vm.SetIRQChip(chip); err != nil {
		t.Fatal(err)
	}
	if err := c.Reapply(); err != nil {
		t.Fatal(err)
	}
	if got := inputs(t, vm); got != 1<<17 {
		t.Errorf("inputs %#x", got)
	}
}

// A level-triggered interrupt of a back end shares its pin with lines, and is low when it leaves the pin.
func TestLevel(t *testing.T) {
	c, vm := newController(t)
	l, err := c.NewLevel()
	if err != nil {
		t.Fatal(err)
	}
	signal := func() {
		if _, err := unix.Write(l.FD(), one[:]); err != nil {
			t.Fatal(err)
		}
	}
	// the kernel raises the pin in a worker of its own
	want := func(bits uint32) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); inputs(t, vm) != bits; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("inputs %#x, want %#x", inputs(t, vm), bits)
			}
		}
	}
	if err := errors.Join(l.Route(17), l.Route(17)); err != nil {
		t.Fatal(err)
	}
	signal()
	want(1 << 17)
	c.Line(17).Set(true)
	if err := l.Route(18); err != nil {
		t.Fatal(err)
	}
	want(1 << 17) // the line's
	signal()
	want(1<<17 | 1<<18)
	if err := l.Route(interrupt.NoPin); err != nil {
		t.Fatal(err)
	}
	want(1 << 17)
	if err := l.Route(Pins); err == nil {
		t.Error("routed to a pin that does not exist")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestMessageMasking(t *testing.T) {
	c, _ := newController(t)
	m, err := c.NewMSI()
	if err != nil {
		t.Fatal(err)
	}
	m.Signal()
	if !m.Pending() {
		t.Error("a signal before the first unmask is lost")
	}
	if err := m.Configure(0xfee00000, 0x41); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := errors.Join(m.Unmask(), m.Unmask()); err != nil {
			t.Fatal(err)
		}
		if m.Pending() {
			t.Error("pending while unmasked")
		}
		if err := m.Configure(0xfee01000, 0x42); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(m.Mask(), m.Mask()); err != nil {
			t.Fatal(err)
		}
	}
	if m.Pending() {
		t.Error("delivered, and still pending")
	}
	m.Signal()
	if !m.Pending() {
		t.Error("a signal while masked is lost")
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
}

// TestManyMessages uses more interrupts than any machine has, and again after they were given back.
func TestManyMessages(t *testing.T) {
	c, _ := newController(t)
	for range 2 {
		var all []func() error
		for i := range 300 {
			m, err := c.NewMSI()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, m.Close)
			if err := errors.Join(m.Configure(0xfee00000, uint32(i)), m.Unmask()); err != nil {
				t.Fatal(err)
			}
		}
		for _, end := range all {
			if err := end(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.nextGSI != Pins+300 || len(c.routes) != 0 {
		t.Errorf("numbers up to %d, %d routes left", c.nextGSI, len(c.routes))
	}
}

func TestSignalDoesNotAllocate(t *testing.T) {
	c, _ := newController(t)
	m, err := c.NewMSI()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if n := testing.AllocsPerRun(100, m.Signal); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDoorbells(t *testing.T) {
	vm := newVM(t)
	d := NewDoorbells(vm)
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range 2 {
		if err := d.Bind(0xe0000000, fd); err != nil {
			t.Fatal(err)
		}
		if err := d.Unbind(0xe0000000, fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Unbind(0xe0000000, fd); err == nil {
		t.Error("unbound twice")
	}
}
