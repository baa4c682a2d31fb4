package network

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vishvananda/netlink"

	"virtd/network/bridge"
	"virtd/network/dhcp"
	"virtd/network/firewall"
	"virtd/network/firewalld"
	"virtd/network/portconf"
	"virtd/network/services"
	"virtd/nodedev"
	"virtd/virterr"
)

// Local is the host that this process runs on, in the network namespace of the calling thread.
type Local struct {
	Links    *bridge.Host
	Services *services.Supervisor
	Log      *slog.Logger
	Tables   firewall.Tables // of this virtd
	Hostdevs Hostdevs        // nil: this virtd can take no devices from the host

	Open  bool             // packet filters of others are opened for networks
	Zones *firewalld.Zones // nil: firewalld is not asked

	told sync.Map // obstacles that the log has had
}

var _ Host = (*Local)(nil)

// LinkExists implements Host.
func (l *Local) LinkExists(name string) (bool, error) {
	_, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, virterr.NewFrom(virterr.FromNetwork, virterr.SystemError, "cannot tell whether the host has a link '%s': %w", name, err)
	}
	return true, nil
}

// Hostdevs is what networks need of the host's PCI functions; *nodedev.Hostdevs has it.
type Hostdevs interface {
	// VirtualFunctions returns those of the card with that interface.
	VirtualFunctions(pf string) ([]nodedev.Address, error)
	// Claimable says why a virtual function can be claimed by nobody now.
	Claimable(a nodedev.Address, managed bool) error
}

// Functions implements Host.
func (l *Local) Functions(pf string) ([]portconf.Function, error) {
	if l.Hostdevs == nil {
		return nil, virterr.New(virterr.ConfigUnsupported, "host doesn't support passthrough of host PCI devices: this virtd is not the system's")
	}
	list, err := l.Hostdevs.VirtualFunctions(pf)
	out := make([]portconf.Function, 0, len(list))
	for _, a := range list {
		out = append(out, portconf.Function{Domain: uint16(a.Domain), Bus: a.Bus, Slot: a.Device, Number: a.Function})
	}
	return out, err
}

// FunctionFree implements Host.
func (l *Local) FunctionFree(f portconf.Function, managed bool) error {
	if l.Hostdevs == nil {
		return virterr.New(virterr.ConfigUnsupported, "host doesn't support passthrough of host PCI devices: this virtd is not the system's")
	}
	return l.Hostdevs.Claimable(nodedev.Address{Domain: uint32(f.Domain), Bus: f.Bus, Device: f.Slot, Function: f.Number}, managed)
}

// Routes implements Host.
func (l *Local) Routes() ([]HostRoute, error) {
	list, err := l.Links.Routes()
	if err != nil {
		return nil, err
	}
	out := make([]HostRoute, 0, len(list))
	for _, r := range list {
		out = append(out, HostRoute{Prefix: r.To, Link: r.Link})
	}
	return out, nil
}

// Up implements Host.
func (l *Local) Up(s Spec) error {
	there, err := l.LinkExists(s.Bridge)
	if err != nil {
		return err
	}
	if !there {
		err := l.Links.AddBridge(bridge.BridgeConfig{
			Name: s.Bridge, MAC: s.MAC, MTU: s.MTU, STP: s.STP, Delay: time.Duration(s.Delay) * time.Second,
		})
		if err != nil {
			return err
		}
	}
	if err := l.address(s); err != nil {
		if !there {
			err = errors.Join(err, l.Links.Delete(s.Bridge))
		}
		return err
	}
	return nil
}

// address gives the bridge its addresses and routes, and lets the host forward.
func (l *Local) address(s Spec) error {
	four, six := false, false
	for _, p := range s.Addresses {
		four, six = four || p.Addr().Is4(), six || p.Addr().Is6()
	}
	l.bridgeSettings(s.Bridge, six)
	for _, p := range s.Addresses {
		if err := l.Links.AddAddress(s.Bridge, p); err != nil {
			return err
		}
	}
	for _, r := range s.Routes {
		if err := l.Links.AddRoute(bridge.Route{To: r.To, Link: s.Bridge, Gateway: r.Gateway, Metric: r.Metric}); err != nil {
			return err
		}
	}
	if s.Mode == ModeIsolated {
		return nil
	}
	return l.forward(s.Name, four, six)
}

// bridgeSettings keeps the host from taking part in the guests' IPv6: it takes no router's word there, no guest's that an address
// of the bridge is taken, which would silence its advertisements, and has no address where the network has none. A kernel
// without IPv6 has nothing to set.
func (l *Local) bridgeSettings(bridge string, six bool) {
	values := map[string]string{"accept_ra": "0", "accept_dad": "0", "autoconf": "0", "disable_ipv6": "1"}
	if six {
		values["disable_ipv6"] = "0"
	}
	for name, v := range values {
		path := "/proc/sys/net/ipv6/conf/" + strings.ReplaceAll(bridge, "/", ".") + "/" + name
		if err := os.WriteFile(path, []byte(v), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.Log.Warn("a setting of a network's bridge cannot be made", "file", path, "value", v, "error", err)
		}
	}
}

// Shape implements Host.
func (l *Local) Shape(s Spec, floors []bridge.Floor) error {
	return l.Links.ShapeBridge(s.Bridge, s.Limits, floors)
}

// Down implements Host.
func (l *Local) Down(s Spec) error { return l.Links.Delete(s.Bridge) }

// filtered is what the packet filter has to know of networks.
func filtered(list []Spec) []firewall.Network {
	var networks []firewall.Network
	for _, s := range list {
		mode := map[Mode]firewall.Mode{ModeIsolated: firewall.Isolated, ModeNAT: firewall.NAT, ModeRoute: firewall.Routed}[s.Mode]
		if mode == "" {
			continue
		}
		networks = append(networks, firewall.Network{
			Bridge: s.Bridge, Mode: mode, Device: s.Device, Subnets: s.Addresses, NATIPv6: s.NATIPv6, Sources: s.NATSources, Ports: s.NATPorts,
		})
	}
	return networks
}

// Filtered implements Host.
func (l *Local) Filtered(list []Spec) (bool, error) { return l.Tables.Applied(filtered(list)) }

// Filter implements Host.
func (l *Local) Filter(list []Spec) error { return l.Tables.Apply(filtered(list)) }

// Serve implements Host.
func (l *Local) Serve(s Spec) error {
	c := services.Config{
		UUID: s.UUID, Name: s.Name, Bridge: s.Bridge, DNS: s.DNS, RA: s.RA, Router: s.Mode != ModeIsolated, MTU: s.MTU, TFTP: s.TFTP,
	}
	for i, d := range s.DHCP {
		if d.Server.Addr().Is6() {
			c.DHCP6 = &s.DHCP[i]
		} else {
			c.DHCP = &s.DHCP[i]
		}
	}
	for _, p := range s.Addresses {
		c.Listen = append(c.Listen, p.Addr())
	}
	return l.Services.Serve(c)
}

// StopServing implements Host.
func (l *Local) StopServing(id uuid.UUID) error { return l.Services.Stop(id) }

// Plug implements Host.
func (l *Local) Plug(bridge, tap string, isolated bool) error {
	if err := l.Links.Attach(bridge, tap); err != nil {
		return err
	}
	if !isolated {
		return nil
	}
	if err := l.Links.Isolate(tap, true); err != nil {
		return fmt.Errorf("tap %s is on bridge %s, but not isolated: %w", tap, bridge, err)
	}
	return nil
}

// Leases implements Host.
func (l *Local) Leases(id uuid.UUID) ([]dhcp.Lease, error) { return l.Services.Leases(id) }

// ForgetLeases implements Host.
func (l *Local) ForgetLeases(id uuid.UUID) error { return l.Services.Forget(id) }

// HostLinkUp implements Host.
func (l *Local) HostLinkUp(s Spec) error { return l.Links.AddHostLink(hostLinkOf(s)) }

// HostLinkDown implements Host.
func (l *Local) HostLinkDown(s Spec) error { return l.Links.DeleteHostLink(hostLinkOf(s)) }

func hostLinkOf(s Spec) bridge.HostLinkConfig {
	return bridge.HostLinkConfig{Name: HostLinkName(s.UUID), Device: s.Device, Address: s.HostLink, Guests: s.HostLinkFor}
}
