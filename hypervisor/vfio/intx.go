package vfio

import (
	"errors"

	"virtd/hypervisor/interrupt"
)

const (
	regInterruptPin = 0x3d
	commandIO       = 1 << 0
	commandMemory   = 1 << 1 // INTx disable is vfio-pci's to do, which hears of each COMMAND
)

// intx is the interrupt pin of a device. vfio-pci signals it and masks the device until the guest's end of interrupt. It is on
// while the guest decodes the device and uses no message interrupts: vfio-pci has one kind at a time.
type intx struct {
	f     *Function
	level interrupt.Level
	gsi   int
	on    bool
}

// addINTx gives the guest the device's pin, which the board wires when the function is added.
func (f *Function) addINTx(pin uint8, c interrupt.Levels) error {
	level, err := c.NewLevel()
	if err != nil {
		return err
	}
	f.intx = &intx{f: f, level: level, gsi: interrupt.NoPin}
	f.pci.UseINTx(pin)
	f.pci.OnPin(f.intx.route)
	return nil
}

// route is the board wiring the pin, in another function's hook perhaps.
func (x *intx) route(gsi int) {
	x.f.pin.Lock()
	defer x.f.pin.Unlock()
	x.gsi = gsi
	if x.on {
		x.report(x.level.Route(gsi))
	}
}

// set switches the pin on or off.
func (x *intx) set(on bool) {
	if x == nil {
		return
	}
	x.f.pin.Lock()
	defer x.f.pin.Unlock()
	if on == x.on {
		return
	}
	if !on {
		x.report(errors.Join(x.f.dev.SetINTx(-1, -1), x.level.Route(interrupt.NoPin)))
		x.on = false
		return
	}
	if err := x.level.Route(x.gsi); err != nil {
		x.report(err)
		return
	}
	if err := x.f.dev.SetINTx(x.level.FD(), x.level.Resample()); err != nil {
		x.report(errors.Join(err, x.level.Route(interrupt.NoPin)))
		return
	}
	x.on = true
}

func (x *intx) report(err error) {
	if err != nil {
		x.f.logf("%s: INTx: %v", x.f.name, err)
	}
}

func (x *intx) close() error {
	if x == nil {
		return nil
	}
	x.set(false)
	return x.level.Close()
}

// syncINTx brings the pin in step with COMMAND and with what the guest chose: a function that sends messages does not use its
// pin (PCI 3.0, 6.8.1.3).
func (f *Function) syncINTx(command uint16) {
	messages := f.msix != nil && f.msix.Enabled() || f.msi != nil && f.pci.Uint16(f.msi.at+2)&msiEnable != 0
	f.intx.set(command&(commandIO|commandMemory) != 0 && !messages)
}
