package nodedev

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// netlinkFunctions are FunctionLinks of this host.
type netlinkFunctions struct{}

// linkStates are the kernel's numbers (IFLA_VF_LINK_STATE_AUTO and following).
var linkStates = []string{"auto", "enable", "disable"}

// Function implements FunctionLinks.
func (netlinkFunctions) Function(pf string, vf int) (FunctionConfig, error) {
	link, err := netlink.LinkByName(pf)
	if err != nil {
		return FunctionConfig{}, err
	}
	for _, v := range link.Attrs().Vfs {
		if v.ID != vf {
			continue
		}
		trust, spoof := v.Trust != 0 && v.Trust != ^uint32(0), v.Spoofchk
		vlan, qos, rate := v.Vlan, v.Qos, v.MaxTxRate
		c := FunctionConfig{MAC: v.Mac.String(), VLAN: &vlan, QoS: &qos, SpoofChk: &spoof, MaxRate: &rate}
		if v.Trust != ^uint32(0) { // the driver has no such thing
			c.Trust = &trust
		}
		if int(v.LinkState) < len(linkStates) {
			c.LinkState = linkStates[v.LinkState]
		}
		return c, nil
	}
	return FunctionConfig{}, fmt.Errorf("the kernel does not list virtual function %d", vf)
}

// SetFunction implements FunctionLinks. What the card does not have is an error only when it asks for a change.
func (n netlinkFunctions) SetFunction(pf string, vf int, c FunctionConfig) error {
	link, err := netlink.LinkByName(pf)
	if err != nil {
		return err
	}
	now, err := n.Function(pf, vf)
	if err != nil {
		return err
	}
	var errs []error
	set := func(what string, change bool, do func() error) {
		if !change {
			return
		}
		if err := do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	set("MAC "+c.MAC, c.MAC != "" && c.MAC != now.MAC, func() error {
		mac, err := net.ParseMAC(c.MAC)
		if err != nil {
			return err
		}
		return netlink.LinkSetVfHardwareAddr(link, vf, mac)
	})
	vlan, qos := value(c.VLAN, value(now.VLAN, 0)), value(c.QoS, value(now.QoS, 0))
	set(fmt.Sprintf("VLAN %d", vlan), vlan != value(now.VLAN, 0) || qos != value(now.QoS, 0), func() error {
		return netlink.LinkSetVfVlanQos(link, vf, vlan, qos)
	})
	set("trust", c.Trust != nil && *c.Trust != value(now.Trust, false), func() error { return netlink.LinkSetVfTrust(link, vf, *c.Trust) })
	set("spoof check", c.SpoofChk != nil && *c.SpoofChk != value(now.SpoofChk, false), func() error { return netlink.LinkSetVfSpoofchk(link, vf, *c.SpoofChk) })
	set("link state", c.LinkState != "" && c.LinkState != now.LinkState, func() error {
		for i, s := range linkStates {
			if s == c.LinkState {
				return netlink.LinkSetVfState(link, vf, uint32(i))
			}
		}
		return fmt.Errorf("no link state '%s'", c.LinkState)
	})
	set("rate", c.MaxRate != nil && *c.MaxRate != value(now.MaxRate, 0), func() error { return netlink.LinkSetVfRate(link, vf, 0, int(*c.MaxRate)) })
	return errors.Join(errs...)
}

// value is what a pointer leads to, or a default.
func value[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
