package vfio

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/interrupt"
)

// fakeLevel remembers where it is routed.
type fakeLevel struct {
	gsi    int
	closed bool
}

func (l *fakeLevel) Route(gsi int) error { l.gsi = gsi; return nil }
func (l *fakeLevel) FD() int             { return 50 }
func (l *fakeLevel) Resample() int       { return 51 }
func (l *fakeLevel) Close() error        { l.closed = true; return nil }

func (c *fakeController) NewLevel() (interrupt.Level, error) {
	c.level = &fakeLevel{gsi: interrupt.NoPin}
	return c.level, nil
}

// fakeRouter is a board that wires each pin to one interrupt.
type fakeRouter struct{ tell func(int) }

func (r *fakeRouter) Line(uint8, uint8) interrupt.Line { return nil }
func (r *fakeRouter) Watch(_, _ uint8, tell func(int)) func() {
	r.tell = tell
	tell(19)
	return func() { tell(interrupt.NoPin) }
}

// The pin signals while the guest decodes the device and uses no messages, where the board wires it.
func TestINTx(t *testing.T) {
	for _, kind := range []struct {
		name            string
		prepare         func(d *fakeDevice)
		messagesAt      int
		on, off         []byte
		messages, quiet string
	}{
		{"MSI-X", func(*fakeDevice) {}, 0x72, []byte{0, 0x80}, []byte{0, 0}, "msix", "msix off"},
		{"MSI", func(d *fakeDevice) { d.config[0x51], d.msixN, d.msi = 0, 0, 1 }, 0x52, []byte{1, 0}, []byte{0, 0}, "msi", "msi off"},
	} {
		t.Run(kind.name, func(t *testing.T) {
			dev := newFake()
			kind.prepare(dev)
			dev.pins, dev.config[regInterruptPin] = 1, 2
			r := newRig(t, dev)
			level := r.irq.level
			if got := r.read32(0x3c) >> 8 & 0xff; got != 2 {
				t.Errorf("pin %d", got)
			}
			if len(dev.irqs) != 0 {
				t.Errorf("before the guest decodes the device: %v", dev.irqs)
			}
			r.place()
			if level.gsi != 19 || !slices.Equal(dev.fds, []int{50, 51}) {
				t.Errorf("routed to %d, descriptors %v", level.gsi, dev.fds)
			}
			r.router.tell(11)
			if level.gsi != 11 {
				t.Errorf("steered to 11, routed to %d", level.gsi)
			}
			r.write(kind.messagesAt, kind.on...)
			if level.gsi != interrupt.NoPin {
				t.Errorf("with messages the pin is routed to %d", level.gsi)
			}
			r.router.tell(10)
			r.write(kind.messagesAt, kind.off...)
			if level.gsi != 10 {
				t.Errorf("without messages the pin is routed to %d", level.gsi)
			}
			r.write(regCommand, 0, 0)
			want := []string{"intx", "intx off", kind.messages, kind.quiet, "intx", "intx off"}
			if !slices.Equal(dev.irqs, want) {
				t.Errorf("calls %v, want %v", dev.irqs, want)
			}
			r.write(regCommand, 2, 0)
			if err := r.f.Close(); err != nil || !level.closed || dev.irqs[len(dev.irqs)-1] != "intx off" {
				t.Errorf("closed: %v, %v, %v", err, level.closed, dev.irqs)
			}
		})
	}
}

// A function with nothing but a pin is passed through.
func TestOnlyINTx(t *testing.T) {
	dev := newFake()
	dev.msixN, dev.pins, dev.config[regInterruptPin] = 0, 1, 1
	r := newRig(t, dev)
	r.place()
	if !slices.Equal(dev.irqs, []string{"intx"}) {
		t.Errorf("calls %v", dev.irqs)
	}
	r.f.PCI().Reset()
	if last := dev.irqs[len(dev.irqs)-1]; last != "intx off" || r.irq.level.gsi != interrupt.NoPin {
		t.Errorf("after a reset: %v, routed to %d", dev.irqs, r.irq.level.gsi)
	}
}

// The kernel's request to have a device back is heard, and nobody listens after the function is closed.
func TestRequestIsHeard(t *testing.T) {
	dev := newFake()
	dev.requests = true
	heard := make(chan struct{}, 1)
	f, err := New(Config{Name: "hostdev0", Device: dev, Slots: &fakeSlots{}, Interrupts: &fakeController{},
		Notices: Notices{Wanted: func() { heard <- struct{}{} }, Failed: func() { t.Error("an error is told that the device cannot report") }}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := unix.Write(dev.notice, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		<-heard
	}
	if err := f.Close(); err != nil || dev.notice != -1 {
		t.Errorf("closed: %v, notice %d", err, dev.notice)
	}
}
