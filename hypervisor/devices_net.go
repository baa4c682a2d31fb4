package hypervisor

import (
	"fmt"

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
	taps, err := m.host.takeAll(c.Taps, "tap")
	if err != nil {
		return err
	}
	var vhosts []int
	if c.Driver == driverVhost {
		if vhosts, err = m.host.takeAll(c.Vhosts, "vhost"); err != nil {
			closeAll(taps)
			return err
		}
	}
	dev, err := virtionet.New(virtionet.Config{
		ID: c.ID, MAC: mac, Taps: taps, Vhosts: vhosts, MTU: c.MTU, LinkDown: c.LinkDown,
		RxQueueSize: c.RxQueueSize, TxQueueSize: c.TxQueueSize, Offloads: c.Offloads, Log: m.host.Logf,
	})
	if err != nil {
		closeAll(append(taps, vhosts...))
		return err
	}
	if err := m.add(c.ID, c.Address, dev, dev.Close); err != nil {
		return err
	}
	m.devices.mu.Lock()
	m.devices.nics = append(m.devices.nics, nic{c, dev})
	m.devices.mu.Unlock()
	return nil
}

// parseMAC reads six bytes in hexadecimal with colons.
func parseMAC(s string) (mac [6]byte, err error) {
	if n, err := fmt.Sscanf(s, "%02x:%02x:%02x:%02x:%02x:%02x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]); err != nil || n != 6 || len(s) != 17 {
		return mac, fmt.Errorf("%q is not a MAC address", s)
	}
	return mac, nil
}
