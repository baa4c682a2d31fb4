package nodedev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// mdevSettle bounds the wait for the kernel's event that a device came or went. It comes at once; udevd may take longer.
const mdevSettle = 5 * time.Second

// start has the kernel make a mediated device and sets its attributes, and returns when the device is listed. The caller
// holds changes.
func (m *Manager) start(ctx context.Context, d mdevDefinition) error {
	m.mu.Lock()
	parent, ok := m.mdevParent(d.Parent)
	m.mu.Unlock()
	if !ok {
		return fmt.Errorf("the parent device %s is not there", d.Parent)
	}
	if err := m.creatable(parent, d); err != nil {
		return err
	}
	create := filepath.Join(m.host.root, parent.Path, supportedTypes, d.Type, "create")
	if err := m.write(create, d.UUID); err != nil {
		return fmt.Errorf("the kernel does not make a %s on %s: %w", d.Type, parent.Name, reason(err))
	}
	dev := path.Join(parent.Path, d.UUID)
	if err := m.setAttrs(dev, d.Attrs); err != nil {
		rerr := m.write(filepath.Join(m.host.root, dev, "remove"), "1")
		if rerr != nil || !m.settle(ctx, d.name(), false) {
			m.log.Error("cannot remove a mediated device that failed to start", "device", d.name(), "error", rerr)
		}
		return err
	}
	m.mu.Lock()
	m.attrs[d.name()] = d.Attrs
	m.mu.Unlock()
	if !m.settle(ctx, d.name(), true) {
		return fmt.Errorf("the kernel has made it, but no driver has it: load the module vfio_mdev or the vendor's (dmesg says more)")
	}
	return nil
}

// creatable says why a device could not be made, where that is known beforehand.
func (m *Manager) creatable(parent Device, d mdevDefinition) error {
	if m.host.exists(mdevBus, d.UUID) {
		at, _ := m.host.resolve(mdevBus + "/" + d.UUID)
		return fmt.Errorf("there is a device with the uuid %s already, on %s", d.UUID, path.Base(path.Dir(at)))
	}
	types := m.host.mdevTypes(parent.Path)
	if len(types) == 0 {
		return fmt.Errorf("%s cannot make mediated devices: its driver has no types of them, or is not loaded", parent.Name)
	}
	for _, t := range types {
		if t.id == d.Type && t.available == 0 {
			return fmt.Errorf("%s can make no more devices of type %s: none is available", parent.Name, d.Type)
		} else if t.id == d.Type {
			return nil
		}
	}
	return fmt.Errorf("%s has no type %s; it has %s", parent.Name, d.Type, strings.Join(typeIDs(types), ", "))
}

// setAttrs sets attributes in the order given.
func (m *Manager) setAttrs(dev string, attrs []MdevAttr) error {
	for _, a := range attrs {
		file, err := m.attrFile(dev, a.Name)
		if err == nil {
			err = m.write(file, a.Value)
		}
		if err != nil {
			return fmt.Errorf("set its attribute %s to '%s': %w", a.Name, a.Value, reason(err))
		}
	}
	return nil
}

// attrFile is the file of an attribute. A name that leads out of the device's folder is refused, by way of a link too: the
// folder has links to the driver and to the parent, whose files do anything.
func (m *Manager) attrFile(dev, name string) (string, error) {
	if !filepath.IsLocal(name) || name == "remove" {
		return "", errors.New("this is no attribute of a mediated device")
	}
	dir := filepath.Join(m.host.root, dev, filepath.Dir(name))
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", reason(err)
	}
	if real != dir {
		return "", errors.New("it is not in the device's folder")
	}
	return filepath.Join(dir, filepath.Base(name)), nil
}

// stop has the kernel remove a device, and returns when it is gone from the list. The caller holds changes.
func (m *Manager) stop(ctx context.Context, d Device) error {
	busy := nodeError(virterr.InternalError, "Unable to destroy '%s': device in use", d.Name)
	// The kernel may wait in the write below until a user of the device closes it. A group can be open once only.
	group, err := os.OpenFile(filepath.Join(m.dev, "vfio", m.host.link(d.Path, "iommu_group")), os.O_RDONLY, 0)
	if errors.Is(err, unix.EBUSY) {
		return busy
	}
	if err == nil {
		group.Close()
	}
	switch err := m.write(filepath.Join(m.host.root, d.Path, "remove"), "1"); {
	case errors.Is(err, unix.EBUSY):
		return busy
	case err != nil:
		return nodeError(virterr.InternalError, "Unable to destroy '%s': %w", d.Name, reason(err))
	}
	if !m.settle(ctx, d.Name, false) {
		return nodeError(virterr.InternalError, "Unable to destroy '%s': the kernel still has it", d.Name)
	}
	return nil
}

// settle waits until a device is listed, or is not, and reports whether it came to that. Where the kernel's event does not
// come in time, or is not listened to, sysfs is looked at.
func (m *Manager) settle(ctx context.Context, name string, there bool) bool {
	is := func() bool { _, ok := m.indexed(name); return ok == there }
	changed := make(chan struct{}, 1)
	defer m.Subscribe(func(Event) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	timeout := time.NewTimer(mdevSettle)
	defer timeout.Stop()
	for !m.blind() && !is() {
		select {
		case <-changed:
			continue
		case <-timeout.C:
		case <-ctx.Done():
		}
		break
	}
	if !is() {
		m.resync()
	}
	return is()
}

// reason is an error of the kernel without the name of the file, with a hint where there is one.
func reason(err error) error {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w (the system's virtd may do it, as root)", virterr.Strerror(err))
	}
	return virterr.Strerror(err)
}
