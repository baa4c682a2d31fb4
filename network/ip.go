package network

import (
	"net/netip"
	"path/filepath"
	"strconv"

	"virtd/domain/xmltree"
)

func (d *definition) readIPs(root *xmltree.Node) error {
	found := map[bool]bool{} // families that have a <dhcp>
	for _, n := range root.All("ip") {
		prefix, err := readPrefix(n, "address", d.name)
		if err != nil {
			return err
		}
		ip := ipConfig{prefix: prefix, localPtr: n.Attr("localPtr") == "yes"}
		if ip.tftp, err = d.readTFTP(n, prefix); err != nil {
			return err
		}
		if h := n.Child("dhcp"); h != nil {
			six := prefix.Addr().Is6()
			if found[six] {
				family := map[bool]string{false: "IPv4", true: "IPv6"}[six]
				return unsupported(h, "Multiple %s dhcp sections found -- dhcp is supported only for a single %s address on each network", family, family)
			}
			found[six] = true
			if ip.dhcp, err = readDHCP(h, prefix); err != nil {
				return err
			}
		}
		for _, other := range d.ips {
			if other.prefix.Overlaps(prefix) {
				return malformed(n, "subnet %s overlaps with %s of the same network '%s'", prefix.Masked(), other.prefix.Masked(), d.name)
			}
		}
		d.ips = append(d.ips, ip)
	}
	return nil
}

// readTFTP reads <tftp> of an <ip>, of which one can have it.
func (d *definition) readTFTP(ip *xmltree.Node, prefix netip.Prefix) (root string, err error) {
	n := ip.Child("tftp")
	if n == nil {
		return "", nil
	}
	root = n.Attr("root")
	switch {
	case prefix.Addr().Is6():
		return "", unsupported(n, "Unsupported <tftp> element in an IPv6 element in network '%s'", d.name)
	case root == "":
		return "", malformed(n, "Missing mandatory root attribute in <tftp> element in network '%s'", d.name)
	case !filepath.IsAbs(root):
		return "", malformed(n, "tftp root '%s' in network '%s' is not an absolute path", root, d.name)
	}
	for _, other := range d.ips {
		if other.tftp != "" {
			return "", unsupported(n, "more than one <tftp> in network '%s' is not supported", d.name)
		}
	}
	return filepath.Clean(root), nil
}

// readPrefix reads the attributes of <ip> and <route>: an address with netmask or prefix.
func readPrefix(n *xmltree.Node, attr, network string) (netip.Prefix, error) {
	text := n.Attr(attr)
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return netip.Prefix{}, malformed(n, "Invalid %s '%s' in network '%s'", attr, text, network)
	}
	switch family := n.Attr("family"); {
	case family == "ipv4" && addr.Is4(), family == "" && addr.Is4(), family == "ipv6" && addr.Is6():
	case family == "" && addr.Is6():
		return netip.Prefix{}, malformed(n, "no family specified for non-IPv4 address '%s' in network '%s'", text, network)
	case family == "ipv4" || family == "ipv6":
		return netip.Prefix{}, malformed(n, "family '%s' specified for address '%s' of the other one in network '%s'", family, text, network)
	default:
		return netip.Prefix{}, malformed(n, "Unrecognized family '%s' in network '%s'", family, network)
	}
	bits := defaultBits(addr)
	mask, prefix := n.Attr("netmask"), n.Attr("prefix")
	switch {
	case mask != "" && prefix != "":
		return netip.Prefix{}, malformed(n, "network '%s' cannot have both a prefix and netmask", network)
	case mask != "":
		if bits, err = maskBits(mask); err != nil || addr.Is6() {
			return netip.Prefix{}, malformed(n, "Invalid netmask '%s' for address '%s' in network '%s' (both must be IPv4)", mask, text, network)
		}
	case prefix != "":
		if bits, err = strconv.Atoi(prefix); err != nil || bits < 0 || bits > addr.BitLen() {
			return netip.Prefix{}, malformed(n, "Invalid prefix '%s' for address '%s' in network '%s'", prefix, text, network)
		}
	}
	return netip.PrefixFrom(addr, bits), nil
}

// defaultBits is the length of a subnet that does not say its own: by class for IPv4, 64 for IPv6.
func defaultBits(a netip.Addr) int {
	switch {
	case a.Is6():
		return 64
	case a.As4()[0] < 128:
		return 8
	case a.As4()[0] < 192:
		return 16
	}
	return 24
}

// maskBits turns 255.255.255.0 into 24.
func maskBits(mask string) (int, error) {
	a, err := netip.ParseAddr(mask)
	if err != nil {
		return 0, err
	}
	for bits := range 33 {
		if netip.AddrFrom4(maskOf(bits)) == a {
			return bits, nil
		}
	}
	return 0, strconv.ErrRange
}

func maskOf(bits int) [4]byte {
	m := ^uint32(0) << (32 - bits)
	return [4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}
}

func (d *definition) readRoutes(root *xmltree.Node) error {
	for _, n := range root.All("route") {
		to, err := readPrefix(n, "address", d.name)
		if err != nil {
			return err
		}
		if to != to.Masked() {
			return malformed(n, "Invalid address '%s' in route of network '%s': it has bits beyond its prefix", n.Attr("address"), d.name)
		}
		gateway, err := netip.ParseAddr(n.Attr("gateway"))
		if err != nil || gateway.Is4() != to.Addr().Is4() {
			return malformed(n, "Invalid gateway '%s' in route of network '%s'", n.Attr("gateway"), d.name)
		}
		r := routeConfig{to: to, gateway: gateway}
		if v := n.Attr("metric"); v != "" {
			m, err := strconv.ParseUint(v, 10, 31)
			if err != nil || m == 0 {
				return malformed(n, "Invalid metric '%s' in route of network '%s'", v, d.name)
			}
			r.metric = int(m)
		}
		reached := false
		for _, ip := range d.ips {
			reached = reached || ip.prefix.Contains(gateway)
		}
		if !reached {
			return malformed(n, "unreachable static route gateway '%s' specified for network '%s'", gateway, d.name)
		}
		d.routes = append(d.routes, r)
	}
	return nil
}
