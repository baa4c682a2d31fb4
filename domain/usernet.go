package domain

import (
	"net/netip"
	"path/filepath"
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// UserNetwork is what an interface of type user asks of the process behind it.
type UserNetwork struct {
	// Passt: the document asks for passt by name.
	Passt bool `json:"passt,omitempty"`
	// Device is the host's link whose addresses and routes the guest sees, "" for the default route's.
	Device string `json:"device,omitempty"`
	// IPv4 and IPv6 are the guest's addresses with the lengths of their subnets; one that is not valid is chosen.
	IPv4     netip.Prefix  `json:"ipv4"`
	IPv6     netip.Prefix  `json:"ipv6"`
	Forwards []PortForward `json:"forwards,omitempty"`
}

// PortForward is ports of the host that lead to a guest.
type PortForward struct {
	Protocol string      `json:"protocol"`         // tcp or udp
	Address  netip.Addr  `json:"address"`          // of the host; invalid: all
	Device   string      `json:"device,omitempty"` // of the host; "": all
	Ranges   []PortRange `json:"ranges,omitempty"` // none: all ports
}

// PortRange is the ports of the host from Start to End, which lead to the guest's from To on; or those that do not.
type PortRange struct {
	Start   uint16 `json:"start"`
	End     uint16 `json:"end"`
	To      uint16 `json:"to"`
	Exclude bool   `json:"exclude,omitempty"`
}

// nicUser checks what an interface of type user has, and refuses it for others.
func (d *Definition) nicUser(nic *xmltree.Node) error {
	if d.opts.Stored {
		return nil
	}
	if nic.Attr("type") != typeUser {
		for _, name := range []string{"ip", "portForward"} {
			if n := nic.Child(name); n != nil {
				return n.Errorf(virterr.ConfigUnsupported, "<%s> is only for interface type='user'", name)
			}
		}
		if b := nic.Child("backend"); b.Attr("type") != "" {
			return b.Errorf(virterr.ConfigUnsupported, "<backend type='%s'/> is only for interface type='user'", b.Attr("type"))
		}
		return nicBackend(nic)
	}
	if b := nic.Child("backend"); b.Attr("tap") != "" || b.Attr("vhost") != "" {
		return b.Errorf(virterr.ConfigUnsupported, "<backend tap= vhost=> is not possible with interface type='user': there is no tap")
	}
	if n := nic.Child("driver"); n.Attr("name") == "vhost" {
		return n.Errorf(virterr.ConfigUnsupported, "driver name 'vhost' is not possible with interface type='user': there is no tap; remove it")
	}
	if n := nic.Child("driver"); number(n.Attr("queues")) > 1 {
		return n.Errorf(virterr.ConfigUnsupported, "interface type='user' has one pair of queues, not %s", n.Attr("queues"))
	}
	if dev := nic.Child("source").Attr("dev"); dev != "" {
		if err := linkName(nic.Child("source"), "source", dev); err != nil {
			return err
		}
	}
	_, err := readUserNetwork(nic)
	return err
}

// nicBackend checks the devices of the host that <backend> names.
func nicBackend(nic *xmltree.Node) error {
	b := nic.Child("backend")
	for _, attr := range []string{"tap", "vhost"} {
		path := b.Attr(attr)
		if path != "" && !filepath.IsAbs(path) {
			return b.Errorf(virterr.XMLError, "backend %s='%s' is not an absolute path", attr, path)
		}
		if kind := nic.Attr("type"); path != "" && (kind == typeHostdev || kind == typeDirect && attr == "tap") {
			return b.Errorf(virterr.ConfigUnsupported, "<backend %s=> is not possible with interface type='%s'", attr, kind)
		}
	}
	if b.Attr("vhost") != "" && nic.Child("driver").Attr("name") == "qemu" {
		return b.Errorf(virterr.ConfigUnsupported, "backend vhost='%s' beside <driver name='qemu'/>; remove one of them", b.Attr("vhost"))
	}
	return nil
}

func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// ReadUserNetwork reads an <interface type='user'>, which was checked when it was defined.
func ReadUserNetwork(nic *xmltree.Node) (UserNetwork, error) { return readUserNetwork(nic) }

func readUserNetwork(nic *xmltree.Node) (UserNetwork, error) {
	u := UserNetwork{Passt: nic.Child("backend").Attr("type") == "passt", Device: nic.Child("source").Attr("dev")}
	for _, n := range nic.All("ip") {
		if err := u.readAddress(n); err != nil {
			return u, err
		}
	}
	for _, n := range nic.All("portForward") {
		f, err := readForward(n)
		if err != nil {
			return u, err
		}
		u.Forwards = append(u.Forwards, f)
	}
	return u, nil
}

func (u *UserNetwork) readAddress(n *xmltree.Node) error {
	a, err := netip.ParseAddr(n.Attr("address"))
	if err != nil {
		return n.Errorf(virterr.XMLError, "Invalid address '%s' in <ip>", n.Attr("address"))
	}
	into, family, bits := &u.IPv4, "ipv4", 24
	if a.Is6() {
		into, family, bits = &u.IPv6, "ipv6", 64
	}
	if f := n.Attr("family"); f != "" && f != family {
		return n.Errorf(virterr.XMLError, "no %s address '%s' for family='%s' in <ip>", f, a, f)
	}
	if p := n.Attr("prefix"); p != "" {
		bits = number(p)
	}
	if bits < 1 || bits > a.BitLen() {
		return n.Errorf(virterr.XMLError, "Invalid prefix value '%s' in <ip>", n.Attr("prefix"))
	}
	if into.IsValid() {
		return n.Errorf(virterr.ConfigUnsupported, "interface type='user' takes one %s address", family)
	}
	*into = netip.PrefixFrom(a, bits)
	return nil
}

func readForward(n *xmltree.Node) (PortForward, error) {
	f := PortForward{Protocol: n.Attr("proto"), Device: n.Attr("dev")}
	if f.Protocol == "" {
		return f, n.Errorf(virterr.XMLError, "missing required attribute 'proto' in element 'portForward'; known are tcp, udp")
	}
	if text := n.Attr("address"); text != "" {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return f, n.Errorf(virterr.XMLError, "Invalid address '%s' in <portForward>", text)
		}
		f.Address = a
	}
	if f.Device != "" {
		if err := linkName(n, "portForward", f.Device); err != nil {
			return f, err
		}
	}
	for _, r := range n.All("range") {
		one, err := readPorts(r)
		if err != nil {
			return f, err
		}
		f.Ranges = append(f.Ranges, one)
	}
	return f, nil
}

func readPorts(n *xmltree.Node) (PortRange, error) {
	var r PortRange
	start, end, to := number(n.Attr("start")), number(n.Attr("end")), number(n.Attr("to"))
	if end == 0 {
		end = start
	}
	if to == 0 {
		to = start
	}
	r.Exclude = n.Attr("exclude") == "yes"
	switch {
	case start < 1 || start > 65535 || end > 65535 || to > 65535:
		return r, n.Errorf(virterr.XMLError, "ports of <range> in <portForward> must be from 1 to 65535")
	case end < start:
		return r, n.Errorf(virterr.XMLError, "<range> of ports %d to %d in <portForward> is reversed", start, end)
	case to+end-start > 65535:
		return r, n.Errorf(virterr.XMLError, "<range> of ports %d to %d in <portForward> does not fit from %d on", start, end, to)
	case r.Exclude && n.Attr("to") != "":
		return r, n.Errorf(virterr.XMLError, "<range> in <portForward> cannot have both exclude='yes' and to=")
	}
	r.Start, r.End, r.To = uint16(start), uint16(end), uint16(to)
	return r, nil
}
