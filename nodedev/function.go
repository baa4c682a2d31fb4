package nodedev

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// FunctionConfig is what a physical function does for one of its virtual functions. Empty and nil mean not told, or leave.
type FunctionConfig struct {
	MAC       string  `json:"mac,omitempty"`
	VLAN      *int    `json:"vlan,omitempty"` // 0 for none, to 4094
	QoS       *int    `json:"qos,omitempty"`  // 802.1p priority, 0 to 7, with VLAN
	Trust     *bool   `json:"trust,omitempty"`
	SpoofChk  *bool   `json:"spoofchk,omitempty"`
	LinkState string  `json:"linkState,omitempty"` // auto, enable or disable
	MaxRate   *uint32 `json:"maxRate,omitempty"`   // Mbit/s, 0 for unlimited
}

// FunctionLinks reads and sets that by the name of the physical function's interface and the number of the virtual function.
type FunctionLinks interface {
	Function(pf string, vf int) (FunctionConfig, error)
	SetFunction(pf string, vf int, c FunctionConfig) error
}

// Check says what is wrong with a configuration, if anything.
func (c FunctionConfig) Check() error {
	if c.MAC != "" {
		if mac, err := net.ParseMAC(c.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return virterr.New(virterr.InvalidArg, "'%s' is not the MAC address of one station", c.MAC)
		}
	}
	if c.VLAN != nil && (*c.VLAN < 0 || *c.VLAN > 4094) {
		return virterr.New(virterr.InvalidArg, "VLAN %d: 0 (none) to 4094", *c.VLAN)
	}
	if c.QoS != nil && (*c.QoS < 0 || *c.QoS > 7) {
		return virterr.New(virterr.InvalidArg, "priority %d: 0 to 7", *c.QoS)
	}
	switch c.LinkState {
	case "", "auto", "enable", "disable":
		return nil
	}
	return virterr.New(virterr.InvalidArg, "link state '%s': auto, enable or disable", c.LinkState)
}

// physical finds a virtual function's interface and number at its physical function.
func (h *Hostdevs) physical(dev string) (pf string, vf int, err error) {
	parent, err := h.resolve(dev + "/physfn")
	if err != nil {
		return "", 0, virterr.New(virterr.ConfigUnsupported, "PCI device %s is not a virtual function", last(dev))
	}
	if pf = h.netOf(parent); pf == "" {
		return "", 0, virterr.New(virterr.ConfigUnsupported, "the physical function %s of PCI device %s has no network interface: its driver is '%s'",
			last(parent), last(dev), h.link(parent, "driver"))
	}
	for _, entry := range h.list(parent) {
		number, ok := strings.CutPrefix(entry, "virtfn")
		if !ok || h.link(parent, entry) != last(dev) {
			continue
		}
		if vf, err = strconv.Atoi(number); err == nil {
			return pf, vf, nil
		}
	}
	return "", 0, virterr.New(virterr.InternalError, "the physical function %s does not know PCI device %s", last(parent), last(dev))
}

// last is the last part of a path.
func last(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

func (h *Hostdevs) function(dev string) (FunctionConfig, error) {
	pf, vf, err := h.physical(dev)
	if err != nil {
		return FunctionConfig{}, err
	}
	c, err := h.links.Function(pf, vf)
	if err != nil {
		return c, virterr.New(virterr.OperationFailed, "cannot read what interface %s does for its virtual function %d: %w", pf, vf, err)
	}
	return c, nil
}

func (h *Hostdevs) setFunction(dev string, c FunctionConfig) error {
	if err := c.Check(); err != nil {
		return err
	}
	pf, vf, err := h.physical(dev)
	if err != nil {
		return err
	}
	if err := h.links.SetFunction(pf, vf, c); err != nil {
		remedy := "the kernel's log may say why (dmesg)"
		if errors.Is(err, unix.EOPNOTSUPP) {
			remedy = "the driver has no such setting"
		}
		parent, _ := h.resolve(dev + "/physfn")
		return virterr.New(virterr.OperationFailed, "interface %s (driver %s) refuses the settings for its virtual function %d (%s): %w; %s",
			pf, h.link(parent, "driver"), vf, last(dev), err, remedy)
	}
	return nil
}

// restoreFunction sets what was before, as far as it was told.
func (h *Hostdevs) restoreFunction(dev string, c FunctionConfig) error {
	c.MaxRate = nil // not every card has it, and virtd did not change it
	return h.setFunction(dev, c)
}

// ConfigureFunction sets what the physical function does for a virtual one: all of it, or after an error nothing.
func (h *Hostdevs) ConfigureFunction(a Address, c FunctionConfig) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	dev, err := h.pciPath(a)
	if err != nil {
		return err
	}
	before, err := h.function(dev)
	if err != nil {
		return err
	}
	err = h.setFunction(dev, c)
	if err == nil || c.Check() != nil {
		return err
	}
	if c.MaxRate == nil { // not every card has it
		before.MaxRate = nil
	}
	if rerr := h.setFunction(dev, before); rerr != nil {
		h.log.Warn("cannot restore the settings of a virtual function", "device", a.String(), "error", rerr)
	}
	return err
}

func (a Address) compare(b Address) int {
	return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Function, b.Function))
}

// Name is the name of a function's node device.
func (a Address) Name() string {
	return fmt.Sprintf("pci_%04x_%02x_%02x_%x", a.Domain, a.Bus, a.Device, a.Function)
}
