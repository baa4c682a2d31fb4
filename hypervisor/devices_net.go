package hypervisor

import (
	"fmt"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/monitor"
	virtionet "virtd/hypervisor/virtio/net"
)

type nic struct {
	cfg *NIC
	dev *virtionet.Device
}

// driverVhost is the NIC.Driver that hands packets to the kernel.
const driverVhost = "vhost"

func (m *Machine) makeNIC(c *NIC) error {
	mac, err := parseMAC(c.MAC)
	if err != nil {
		return err
	}
	cfg := virtionet.Config{
		ID: c.ID, MAC: mac, MTU: c.MTU, LinkDown: c.LinkDown, RxQueueSize: c.RxQueueSize, TxQueueSize: c.TxQueueSize,
		Offloads: c.Offloads, NoEventIdx: c.NoEventIdx, Standby: c.Standby, HashReport: c.HashReport, Log: m.host.Logf,
		RxFilterChanged: func() {
			m.host.Event(monitor.Event{Name: monitor.EventRxFilter, Data: map[string]string{"name": c.ID, "path": "/machine/peripheral/" + c.ID}})
		},
		BackendChanged: func(name string, refused error) { m.host.Event(backendEvent(c.ID, name, refused)) },
	}
	if err := m.takeNICFiles(c, &cfg); err != nil {
		return err
	}
	dev, err := virtionet.New(cfg)
	if err != nil && cfg.User != nil {
		return err
	}
	if err != nil {
		closeAll(append(cfg.Taps, cfg.Vhosts...))
		if cfg.Streams {
			unix.Close(cfg.Stream)
		}
		if cfg.Steering != nil {
			closeAll([]int{cfg.Steering.Program, cfg.Steering.Map})
		}
		return err
	}
	m.dirty.Add(c.ID, m.nicWrites(dev))
	if err := m.add(c.Transport, c.ID, c.Address, dev, m.unrecorded(c.ID, dev.Close)); err != nil {
		return err
	}
	m.devices.mu.Lock()
	m.devices.nics = append(m.devices.nics, nic{c, dev})
	m.devices.mu.Unlock()
	return nil
}

// backendEvent tells that others move a device's packets from now on.
func backendEvent(id, name string, refused error) monitor.Event {
	data := map[string]string{"name": id, "driver": name}
	if refused != nil {
		data["reason"] = refused.Error()
	}
	return monitor.Event{Name: monitor.EventNICBackend, Data: data}
}

// takeNICFiles finds the descriptors of a network device. On an error none is taken.
func (m *Machine) takeNICFiles(c *NIC, cfg *virtionet.Config) (err error) {
	if c.VhostUser != nil {
		cfg.User, err = m.takeVhostUser(c)
		return err
	}
	if c.Stream != "" {
		cfg.Streams = true
		cfg.Stream, err = m.host.take(c.Stream, "stream socket")
		return err
	}
	if cfg.Taps, err = m.host.takeAll(c.Taps, "tap"); err != nil {
		return err
	}
	if c.Driver == driverVhost {
		if cfg.Vhosts, err = m.host.takeAll(c.Vhosts, "vhost"); err != nil {
			closeAll(cfg.Taps)
			return err
		}
	}
	if c.Steering != nil {
		files, err := m.host.takeAll([]FileName{c.Steering.Program, c.Steering.Map}, "BPF program and map")
		if err != nil {
			closeAll(append(cfg.Taps, cfg.Vhosts...))
			return err
		}
		cfg.Steering = &virtionet.Steering{Program: files[0], Map: files[1]}
	}
	return nil
}

func (m *Machine) takeVhostUser(c *NIC) (*virtionet.User, error) {
	conn, listen, err := m.host.takeVhostUser(c.VhostUser)
	return &virtionet.User{Conn: conn, Listen: listen, Pairs: max(c.Queues, 1), Changed: m.vhostUserChanged(c.ID)}, err
}

// parseMAC reads six bytes in hexadecimal with colons.
func parseMAC(s string) (mac [6]byte, err error) {
	if n, err := fmt.Sscanf(s, "%02x:%02x:%02x:%02x:%02x:%02x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]); err != nil || n != 6 || len(s) != 17 {
		return mac, fmt.Errorf("%q is not a MAC address", s)
	}
	return mac, nil
}
