package hypervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/monitor"
	virtionet "virtd/hypervisor/virtio/net"
)

// Control returns what a monitor drives the machine by.
func (m *Machine) Control() monitor.Machine { return control{m} }

// control makes a Machine a monitor.Machine: the two differ in how they name a few things.
type control struct{ *Machine }

var _ monitor.Machine = control{}

func init() { monitor.SetConfigVersion(ConfigVersion) }

// Name implements monitor.Machine.
func (c control) Name() string { return c.cfg.Name }

// UUID implements monitor.Machine.
func (c control) UUID() string { return c.cfg.UUID }

// RunState implements monitor.Machine.
func (c control) RunState() (state, reason string) {
	s, r := c.Status()
	return string(s), r
}

// Quit implements monitor.Machine. It does not wait: the reply must leave before the process.
func (c control) Quit(reason string) { go c.Stop(ExitQuit, reason) }

// SetPoweroffAction implements monitor.Machine.
func (c control) SetPoweroffAction(reset bool) { c.resetAtPoweroff.Store(reset) }

// CPUs implements monitor.Machine. A client can be connected before the machine started: it waits, because a vCPU without
// its thread is of no use to who wants to pin it.
func (c control) CPUs() []monitor.CPU {
	select {
	case <-c.runner.up:
	case <-c.done:
	}
	var out []monitor.CPU
	for _, v := range c.runner.cpus() {
		out = append(out, monitor.CPU{Index: v.index, APICID: uint32(v.v.ID()), ThreadID: v.v.TID(), Exits: v.exits.Load()})
	}
	return out
}

// Disks implements monitor.Machine.
func (c control) Disks() []monitor.Disk {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	var out []monitor.Disk
	for _, d := range c.devices.disks {
		s := d.dev.Stats()
		out = append(out, monitor.Disk{
			ID: d.cfg.ID, ReadOnly: d.cfg.ReadOnly, Format: d.cfg.Format, Size: uint64(d.dev.Image().Size()), Mode: d.dev.Mode(),
			Stats: monitor.DiskStats{ReadBytes: s.ReadBytes, ReadOps: s.ReadOps, ReadNS: s.ReadNs, WriteBytes: s.WriteBytes,
				WriteOps: s.WriteOps, WriteNS: s.WriteNs, FlushOps: s.FlushOps, FlushNS: s.FlushNs, Errors: s.Errors,
				Size: uint64(d.dev.Image().Size())},
		})
	}
	return out
}

// ResizeDisk implements monitor.Machine.
func (c control) ResizeDisk(id string, bytes uint64) error {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	for _, d := range c.devices.disks {
		if d.cfg.ID == id {
			if bytes > 1<<62 {
				return fmt.Errorf("disk %q: %d bytes are too many", id, bytes)
			}
			return d.dev.Resize(int64(bytes))
		}
	}
	return fmt.Errorf("disk %q: %w", id, monitor.ErrNotFound)
}

// SetThrottle implements monitor.Machine.
func (c control) SetThrottle(id string, throttle json.RawMessage) error {
	var t *Throttle
	d := json.NewDecoder(bytes.NewReader(throttle))
	d.DisallowUnknownFields() // a limit that this engine does not know it does not keep
	if err := d.Decode(&t); err != nil {
		return fmt.Errorf("throttle: %w", err)
	}
	return c.Machine.SetThrottle(id, t)
}

// NICs implements monitor.Machine.
func (c control) NICs() []monitor.NIC {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	var out []monitor.NIC
	for _, n := range c.devices.nics {
		backend, refused := n.dev.Backend()
		nic := monitor.NIC{ID: n.cfg.ID, MAC: n.cfg.MAC, Driver: backend, Queues: max(n.cfg.Queues, 1), Up: n.dev.LinkUp()}
		if refused != nil {
			nic.Refused = refused.Error()
		}
		if backend == virtionet.BackendEngine {
			s := n.dev.Stats()
			nic.Stats = &monitor.NICStats{RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxDropped: s.RxDropped,
				TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxDropped: s.TxDropped}
		}
		out = append(out, nic)
	}
	return out
}

// RxFilters implements monitor.Machine.
func (c control) RxFilters(id string) ([]monitor.RxFilter, error) {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	out := []monitor.RxFilter{}
	for _, n := range c.devices.nics {
		if id == "" || n.cfg.ID == id {
			out = append(out, monitor.RxFilter{Name: n.cfg.ID, Receives: monitor.Receives(n.dev.RxFilter())})
		}
	}
	if id != "" && len(out) == 0 {
		return nil, fmt.Errorf("invalid net client name: %s: %w", id, monitor.ErrNotFound)
	}
	return out, nil
}

// ReconnectNIC implements monitor.Machine.
func (c control) ReconnectNIC(id string, fd int) error {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	for _, n := range c.devices.nics {
		if n.cfg.ID == id {
			return n.dev.Reconnect(fd)
		}
	}
	unix.Close(fd)
	return fmt.Errorf("network device %q: %w", id, monitor.ErrNotFound)
}

// SetLink implements monitor.Machine.
func (c control) SetLink(id string, up bool) error {
	c.devices.mu.RLock()
	defer c.devices.mu.RUnlock()
	for _, n := range c.devices.nics {
		if n.cfg.ID == id {
			n.dev.SetLink(up)
			return nil
		}
	}
	return fmt.Errorf("network device %q: %w", id, monitor.ErrNotFound)
}

// Chardevs implements monitor.Machine.
func (c control) Chardevs() []monitor.Chardev {
	var out []monitor.Chardev
	for _, s := range c.board.serials {
		out = append(out, monitor.Chardev{ID: s.id, Type: s.port.Type(), Connected: s.port.Connected()})
	}
	for _, d := range c.devices.consoles {
		out = append(out, monitor.Chardev{ID: d.id, Type: d.port.Type(), Connected: d.port.Connected()})
	}
	return out
}

// Attach implements monitor.Machine.
func (c control) Attach(device json.RawMessage, files map[string]int) error {
	named := make(map[FileName]int, len(files))
	for name, fd := range files {
		named[FileName(name)] = fd
	}
	var a Attachment
	d := json.NewDecoder(bytes.NewReader(device))
	d.DisallowUnknownFields() // a newer virtd must not believe that an older engine does what it says
	if err := d.Decode(&a); err != nil {
		for _, fd := range named {
			unix.Close(fd)
		}
		return fmt.Errorf("device: %w", err)
	}
	return c.Machine.Attach(a, named)
}

// PCI implements monitor.Machine.
func (c control) PCI() []monitor.PCIFunction {
	var out []monitor.PCIFunction
	for _, f := range c.board.root.Functions() {
		id := f.Identity()
		out = append(out, monitor.PCIFunction{Address: f.Address().String(), Vendor: id.Vendor, Device: id.Device, Class: id.Class})
	}
	return out
}

// Wait blocks until the machine has ended and returns why.
func (m *Machine) Wait() (ExitRecord, error) {
	<-m.done
	if m.record.Reason == ExitError {
		return m.record, errors.New(m.record.Detail)
	}
	return m.record, nil
}
