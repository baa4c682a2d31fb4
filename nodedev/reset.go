package nodedev

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Reset puts a function back to its state at power-on, by what the kernel knows for it: function level reset, power
// management, or its bus where nothing else is on it. Whoever uses the function would be surprised, so a domain's and one
// with a driver of the host are refused.
func (h *Hostdevs) Reset(_ context.Context, a Address) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	dev, err := h.pciPath(a)
	if err != nil {
		return err
	}
	if _, used := h.users[a]; used {
		return virterr.NewFrom(virterr.FromNodeDev, virterr.InternalError, "Not resetting active device %s", a)
	}
	failed := func(why error) error {
		return virterr.NewFrom(virterr.FromNodeDev, virterr.InternalError, "Unable to reset PCI device %s: %w", a, why)
	}
	if driver := h.link(dev, "driver"); driver != "" && !isVFIO(driver) && driver != "pci-stub" {
		return failed(fmt.Errorf("the host's driver %s has it; detach it first", driver))
	}
	if !h.exists(dev, "reset") {
		return failed(errors.New("no FLR, PM reset or bus reset available"))
	}
	err = h.set("1", dev, "reset")
	switch {
	case errors.Is(err, unix.ENOTTY):
		return failed(errors.New("no FLR, PM reset or bus reset available"))
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY):
		return failed(fmt.Errorf("the device or its bus is in use by another process: %w", err))
	case err != nil:
		methods := h.attr(dev, "reset_method")
		if methods == "" {
			methods = "unknown"
		}
		return failed(fmt.Errorf("%w (methods: %s)", err, methods))
	}
	return nil
}
