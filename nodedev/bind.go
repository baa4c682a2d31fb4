package nodedev

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// vfioPCI is the driver that hands a function to user space.
const vfioPCI = "vfio-pci"

// isVFIO tells vfio-pci and its variants for one kind of card (mlx5_vfio_pci) from other drivers.
func isVFIO(driver string) bool {
	return driver == vfioPCI || strings.HasSuffix(driver, "_vfio_pci") || strings.HasSuffix(driver, "-vfio-pci")
}

func (h *Hostdevs) set(value string, elem ...string) error {
	file := filepath.Join(append([]string{h.root}, elem...)...)
	if err := h.write(file, value); err != nil {
		return fmt.Errorf("write %q to %s: %w", strings.TrimSpace(value), file, err)
	}
	return nil
}

// Probing again helps drivers that come too early: igbvf of Linux 6.1 finds its physical function in reset.
const (
	probes     = 4
	probePause = 250 * time.Millisecond
)

// bind takes a function from the driver that it has and gives it to another; "" leaves it without one. driver_override
// decides: it beats the lists of devices that drivers know, and sriov_drivers_autoprobe.
func (h *Hostdevs) bind(ctx context.Context, dev, driver string) error {
	name := filepath.Base(dev)
	if now := h.link(dev, "driver"); now == driver {
		return nil
	} else if now != "" {
		if err := h.set(name, dev, "driver/unbind"); err != nil {
			return fmt.Errorf("its driver %s does not give it up: %w; stop what uses the device, the kernel's log may say more (dmesg)", now, err)
		}
	}
	if driver == "" {
		return nil
	}
	if err := h.set(driver, dev, "driver_override"); err != nil {
		return err
	}
	err := h.probe(ctx, dev, driver)
	if cerr := h.set("\n", dev, "driver_override"); cerr != nil && err == nil {
		err = cerr
	}
	return err
}

// probe lets drivers look at a function until it has the one that is wanted; "": any.
func (h *Hostdevs) probe(ctx context.Context, dev, driver string) error {
	var last error
	for i := range probes {
		if i > 0 {
			select {
			case <-ctx.Done():
				return errors.Join(last, ctx.Err())
			case <-time.After(probePause):
			}
		}
		last = h.set(filepath.Base(dev), "bus/pci/drivers_probe")
		switch now := h.link(dev, "driver"); {
		case now != "" && (driver == "" || now == driver):
			return nil
		case now != "":
			return fmt.Errorf("the driver %s took it, not %s", now, driver)
		}
	}
	if last == nil {
		last = errors.New("the kernel's log says why (dmesg)")
	}
	return fmt.Errorf("the driver %s does not take it: %w", driver, last)
}
