package usernet

import (
	"fmt"
	"net/netip"
	"strings"

	"virtd/domain"
	"virtd/virterr"
)

// Config is the network of one interface.
type Config struct {
	Dir    string `json:"-"`      // of the domain's run; the record is there
	Domain string `json:"domain"` // name, for messages
	Alias  string `json:"alias"`  // of the interface

	MAC     string             `json:"mac"`
	MTU     int                `json:"mtu,omitempty"` // bytes; 0 is the back end's choice
	Network domain.UserNetwork `json:"network"`
}

// Backend is the program behind an interface.
type Backend string

// The back ends.
const (
	Passt Backend = "passt"
	Own   Backend = "virtd-usernet"
)

// Info is what is known of a network that was started.
type Info struct {
	Backend   Backend        `json:"backend"`
	Addresses []netip.Prefix `json:"addresses,omitempty"` // of the guest, as far as they do not follow from the host's
}

// The network of our own back end, where the document gives no address: QEMU's, which guests' documentation knows.
var (
	ownSubnet = netip.MustParsePrefix("10.0.2.0/24")
	ownGuest  = netip.MustParseAddr("10.0.2.15")
)

// Places in the subnet of our own back end: the router with DNS and DHCP, and the address that stands for the host.
const (
	ownRouter = 1
	ownHost   = 2
)

// guest returns the guest's address with our own back end.
func (c *Config) guest() netip.Prefix {
	if c.Network.IPv4.IsValid() {
		return c.Network.IPv4
	}
	return netip.PrefixFrom(ownGuest, ownSubnet.Bits())
}

// nth returns the n-th address of a subnet.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// checkOwn refuses what our own back end cannot do.
func (c *Config) checkOwn() error {
	where := func(text string, args ...any) error {
		return virterr.New(virterr.ConfigUnsupported, "interface %s of domain '%s': "+text, append([]any{c.Alias, c.Domain}, args...)...)
	}
	g := c.guest()
	switch {
	case c.Network.Passt:
		return where("<backend type='passt'/> is asked for and passt is not installed; install the package passt, or remove <backend>")
	case c.Network.IPv6.IsValid():
		return where("an IPv6 address needs passt, which is not installed: virtd-usernet has IPv4 alone")
	case c.Network.Device != "":
		return where("<source dev='%s'/> needs passt, which is not installed: virtd-usernet goes by the host's routes", c.Network.Device)
	case g.Bits() > 29:
		return where("a subnet of %d bits has no room for a router, the host and a guest; use a prefix of 29 or less", g.Bits())
	}
	for _, n := range []int{0, ownRouter, ownHost} {
		if g.Addr() == nth(g, n) {
			return where("the address %s is not free for the guest: the first two of %s are the router's and the host's", g.Addr(), g.Masked())
		}
	}
	for _, f := range c.Network.Forwards {
		switch {
		case f.Device != "":
			return where("<portForward dev='%s'> needs passt, which is not installed", f.Device)
		case f.Address.IsValid() && !f.Address.Is4():
			return where("<portForward address='%s'> needs passt, which is not installed: virtd-usernet has IPv4 alone", f.Address)
		case len(openRanges(f.Ranges)) == 0:
			return where("<portForward> without a <range> of ports needs passt, which is not installed; name the ports")
		}
	}
	return nil
}

// openRanges are the ranges that lead to the guest.
func openRanges(all []domain.PortRange) []domain.PortRange {
	var out []domain.PortRange
	for _, r := range all {
		if !r.Exclude {
			out = append(out, r)
		}
	}
	return out
}

// maxForwards is how many ports our own back end listens on for one guest.
const maxForwards = 1024

// Forwards lists what our own back end listens on, as its library has it: "udp:0.0.0.0:53" for "10.0.2.15:53".
func (c *Config) Forwards() (map[string]string, error) {
	out := map[string]string{}
	for _, f := range c.Network.Forwards {
		host := "0.0.0.0"
		if f.Address.IsValid() {
			host = f.Address.String()
		}
		prefix := ""
		if f.Protocol == "udp" {
			prefix = "udp:"
		}
		for _, r := range openRanges(f.Ranges) {
			for port := int(r.Start); port <= int(r.End); port++ {
				if excluded(f.Ranges, port) {
					continue
				}
				if len(out) == maxForwards {
					return nil, virterr.New(virterr.ConfigUnsupported,
						"interface %s of domain '%s' forwards more than %d ports, which needs passt", c.Alias, c.Domain, maxForwards)
				}
				out[fmt.Sprintf("%s%s:%d", prefix, host, port)] = fmt.Sprintf("%s:%d", c.guest().Addr(), int(r.To)+port-int(r.Start))
			}
		}
	}
	return out, nil
}

func excluded(all []domain.PortRange, port int) bool {
	for _, r := range all {
		if r.Exclude && port >= int(r.Start) && port <= int(r.End) {
			return true
		}
	}
	return false
}

// passtArgs is the command line of passt, whose socket is descriptor fd (passt(1)).
func (c *Config) passtArgs(fd int) []string {
	args := []string{"--foreground", "--quiet", "--fd", fmt.Sprint(fd)}
	if c.MTU > 0 {
		args = append(args, "--mtu", fmt.Sprint(c.MTU))
	}
	if c.Network.Device != "" {
		args = append(args, "--interface", c.Network.Device)
	}
	if p := c.Network.IPv4; p.IsValid() {
		args = append(args, "--address", p.Addr().String(), "--netmask", fmt.Sprint(p.Bits()))
	}
	if p := c.Network.IPv6; p.IsValid() {
		args = append(args, "--address", p.Addr().String())
	}
	for _, f := range c.Network.Forwards {
		option := "--tcp-ports"
		if f.Protocol == "udp" {
			option = "--udp-ports"
		}
		args = append(args, option, passtPorts(f))
	}
	return args
}

// passtPorts writes a forward as passt has it: [ADDRESS][%DEVICE]/PORTS[:TO],~EXCLUDED.
func passtPorts(f domain.PortForward) string {
	var b strings.Builder
	if f.Address.IsValid() {
		b.WriteString(f.Address.String())
	}
	if f.Device != "" {
		b.WriteString("%" + f.Device)
	}
	if b.Len() > 0 {
		b.WriteString("/")
	}
	if len(f.Ranges) == 0 {
		b.WriteString("all")
		return b.String()
	}
	for i, r := range f.Ranges {
		if i > 0 {
			b.WriteString(",")
		}
		if r.Exclude {
			b.WriteString("~")
		}
		fmt.Fprint(&b, r.Start)
		if r.End != r.Start {
			fmt.Fprintf(&b, "-%d", r.End)
		}
		if r.To != r.Start {
			fmt.Fprintf(&b, ":%d", r.To)
			if r.End != r.Start {
				fmt.Fprintf(&b, "-%d", r.To+r.End-r.Start)
			}
		}
	}
	return b.String()
}
