package nodedev

import (
	"context"
	"slices"

	"virtd/virterr"
)

// Create makes a device that ends with the host's boot, or when it is destroyed, from a document, and returns its name. Only
// mediated devices can be made. With strict, a document that has words without meaning is refused.
func (m *Manager) Create(ctx context.Context, text string, strict bool) (string, error) {
	d, err := m.parseMdev(text, strict)
	if err != nil {
		return "", err
	}
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.start(ctx, d); err != nil {
		return "", nodeError(virterr.InternalError, "Unable to start mediated device: %w", err)
	}
	return d.name(), m.touched(d.name())
}

// Define keeps the document of a mediated device, so that it can be started, or replaces the one that is kept. It returns
// the device's name; the definition is on disk by then. A device that exists stays as it is.
func (m *Manager) Define(text string, strict bool) (string, error) {
	d, err := m.parseMdev(text, strict)
	if err != nil {
		return "", err
	}
	m.changes.Lock()
	defer m.changes.Unlock()
	r, known := m.definition(d.name())
	if known && slices.Equal(r.Attrs, d.Attrs) && r.Type == d.Type {
		return d.name(), nil
	}
	r.mdevDefinition = d
	if !known {
		if _, active := m.indexed(d.name()); active { // an administrator's; it needs no other start in this boot
			r.Boot = m.boot
		}
	}
	if err := m.store.put(r); err != nil {
		return "", nodeError(virterr.InternalError, "Unable to define mediated device: %w", err)
	}
	kind := Defined
	if known {
		kind = Changed
	}
	m.redefine(Event{kind, d.name()}, &r)
	return d.name(), nil
}

// Undefine forgets a definition. A device that exists stays, and is not persistent any more.
func (m *Manager) Undefine(name string) error {
	m.changes.Lock()
	defer m.changes.Unlock()
	d, err := m.Lookup(name)
	switch {
	case err != nil:
		return err
	case !d.Persistent:
		return nodeError(virterr.OperationInvalid, "Node device '%s' is not defined", name)
	case d.Kind != Mdev:
		return unsupportedType()
	}
	if err := m.store.remove(name); err != nil {
		return nodeError(virterr.InternalError, "Unable to undefine mediated device: %w", err)
	}
	m.redefine(Event{Undefined, name}, nil)
	return nil
}

// Start makes a defined device.
func (m *Manager) Start(ctx context.Context, name string) error {
	m.changes.Lock()
	defer m.changes.Unlock()
	d, err := m.Lookup(name)
	switch {
	case err != nil:
		return err
	case d.Active:
		return nodeError(virterr.OperationInvalid, "Device is already active")
	}
	r, _ := m.definition(name)
	if err := m.start(ctx, r.mdevDefinition); err != nil {
		return nodeError(virterr.InternalError, "Unable to create mediated device: %w", err)
	}
	return m.touched(name)
}

// Destroy removes a mediated device that nobody uses. Its definition, if it has one, stays.
func (m *Manager) Destroy(ctx context.Context, name string) error {
	m.changes.Lock()
	defer m.changes.Unlock()
	d, err := m.Lookup(name)
	switch {
	case err != nil:
		return err
	case d.Kind != Mdev:
		return unsupportedType()
	case !d.Active:
		return nodeError(virterr.OperationInvalid, "Device '%s' is not active", name)
	}
	if err := m.stop(ctx, d); err != nil {
		return err
	}
	return m.touched(name)
}

// SetAutostart says whether a defined device is started when the host boots, or when its parent comes.
func (m *Manager) SetAutostart(name string, autostart bool) error {
	m.changes.Lock()
	defer m.changes.Unlock()
	d, err := m.Lookup(name)
	switch {
	case err != nil:
		return err
	case d.Kind != Mdev:
		return nodeError(virterr.OperationUnsupported, "Unsupported device type")
	case !d.Persistent:
		return nodeError(virterr.OperationInvalid, "cannot set autostart for transient device")
	case d.Autostart == autostart:
		return nil
	}
	r, _ := m.definition(name)
	r.Autostart = autostart
	if err := m.store.put(r); err != nil {
		return nodeError(virterr.InternalError, "Unable to set autostart on '%s': %w", name, err)
	}
	m.redefine(Event{Changed, name}, &r)
	return nil
}

// definition returns what is kept of a device.
func (m *Manager) definition(name string) (mdevRecord, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.defined[name]
	return r, ok
}

// redefine replaces a definition in memory, or removes it where there is none, and tells of it.
func (m *Manager) redefine(e Event, r *mdevRecord) {
	m.order.Lock()
	defer m.order.Unlock()
	m.mu.Lock()
	if r == nil {
		delete(m.defined, e.Device)
	} else {
		m.defined[e.Device] = *r
	}
	m.mu.Unlock()
	m.deliver([]Event{e})
}

// touched notes that a defined device was started or destroyed in this boot. The caller holds changes.
func (m *Manager) touched(name string) error {
	r, ok := m.definition(name)
	if !ok || r.Boot == m.boot {
		return nil
	}
	r.Boot = m.boot
	if err := m.store.put(r); err != nil {
		return nodeError(virterr.InternalError, "%w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.defined[name] = r
	return nil
}

// state fills in what is kept of a device besides what sysfs says. The caller holds mu.
func (m *Manager) state(d Device) Device {
	d.Active = true
	if d.Kind == System {
		d.Persistent, d.Autostart = true, true
		return d
	}
	if r, ok := m.defined[d.Name]; ok {
		d.Persistent, d.Autostart = true, r.Autostart
	}
	return d
}

// inactive returns a device of which there is only a definition. The caller holds mu.
func (m *Manager) inactive(name string) (Device, bool) {
	r, ok := m.defined[name]
	return Device{Name: name, Kind: Mdev, Caps: []string{string(Mdev)}, Persistent: true, Autostart: r.Autostart}, ok
}

// attrsOf returns the attributes that a device was made with: this process knows, or its definition tells.
func (m *Manager) attrsOf(name string) []MdevAttr {
	m.mu.Lock()
	defer m.mu.Unlock()
	if attrs, ok := m.attrs[name]; ok {
		return attrs
	}
	return m.defined[name].Attrs
}

// parentOf names the device that a definition's parent is; the computer while it is not there.
func (m *Manager) parentOf(r mdevRecord) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, ok := m.mdevParent(r.Parent); ok {
		return d.Name
	}
	return computer
}

// DefinedXML describes a device as it is defined.
func (m *Manager) DefinedXML(name string) (string, error) {
	d, err := m.Lookup(name)
	switch {
	case err != nil:
		return "", err
	case !d.Persistent:
		return "", nodeError(virterr.OperationInvalid, "node device '%s' is not persistent", name)
	case d.Kind != Mdev:
		return m.XML(name)
	}
	r, _ := m.definition(name)
	return r.document(m.parentOf(r)).String(), nil
}
