package network

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"virtd/domain/xmltree"
	"virtd/network/dhcp"
	"virtd/network/dns"
)

// dhcpConfig is <dhcp>.
type dhcpConfig struct {
	ranges     []dhcp.Range
	hosts      []dhcp.Host
	bootFile   string
	bootServer netip.Addr
}

// dnsConfig is <dns>.
type dnsConfig struct {
	off        bool
	noPlain    bool
	hosts      []dns.Host
	txt        []dns.TXT
	srv        []dns.SRV
	forwarders []dns.Forwarder
}

// domainName is what may stand as a name in DNS here: labels of letters, digits, '-' and '_'.
var domainName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

func isName(s string) bool {
	if len(s) > 253 || !domainName.MatchString(s) {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if len(label) > 63 {
			return false
		}
	}
	return true
}

func (d *definition) readNames(root *xmltree.Node) error {
	n := root.Child("domain")
	if n == nil {
		return nil
	}
	if n.Attr("register") == "yes" {
		return unsupported(n, "domain register='yes' is not supported: names are not put into the host's resolver")
	}
	d.domain, d.localOnly = n.Attr("name"), n.Attr("localOnly") == "yes"
	if d.domain != "" && !isName(d.domain) {
		return malformed(n, "'%s' is not a domain name", d.domain)
	}
	if d.localOnly && d.domain == "" {
		return malformed(n, "domain localOnly='yes' needs a name")
	}
	return nil
}

// readDHCP reads <dhcp> of the subnet prefix.
func readDHCP(n *xmltree.Node, prefix netip.Prefix) (*dhcpConfig, error) {
	c := &dhcpConfig{}
	total := uint64(0)
	for _, r := range n.All("range") {
		rng, err := readRange(r, prefix)
		if err != nil {
			return nil, err
		}
		if total += min(rng.Size(), dhcp.MaxAddresses+1); total > dhcp.MaxAddresses {
			return nil, unsupported(r, "dhcp ranges of more than %d addresses are not supported", dhcp.MaxAddresses)
		}
		c.ranges = append(c.ranges, rng)
	}
	for _, h := range n.All("host") {
		host, err := readDHCPHost(h, prefix)
		if err != nil {
			return nil, err
		}
		c.hosts = append(c.hosts, host)
	}
	if len(c.hosts) > dhcp.MaxHosts {
		return nil, unsupported(n, "more than %d dhcp hosts are not supported", dhcp.MaxHosts)
	}
	b := n.Child("bootp")
	if b != nil && prefix.Addr().Is6() {
		return nil, unsupported(b, "<bootp> is for IPv4")
	}
	c.bootFile = b.Attr("file")
	if b != nil && c.bootFile == "" {
		return nil, malformed(b, "Missing 'file' attribute of <bootp>")
	}
	if s := b.Attr("server"); s != "" {
		addr, err := netip.ParseAddr(s)
		if err != nil || !addr.Is4() {
			return nil, unsupported(b, "bootp server '%s' is not an IPv4 address", s)
		}
		c.bootServer = addr
	}
	return c, nil
}

func readRange(n *xmltree.Node, prefix netip.Prefix) (r dhcp.Range, err error) {
	for _, f := range []struct {
		attr string
		to   *netip.Addr
	}{{"start", &r.First}, {"end", &r.Last}} {
		text := n.Attr(f.attr)
		if text == "" {
			return r, malformed(n, "Missing '%s' attribute in dhcp range", f.attr)
		}
		if *f.to, err = netip.ParseAddr(text); err != nil || f.to.Is4() != prefix.Addr().Is4() || f.to.Zone() != "" {
			return r, malformed(n, "cannot parse dhcp range %s address '%s'", f.attr, text)
		}
	}
	if r.Last.Less(r.First) {
		return r, malformed(n, "range %s - %s is reversed", r.First, r.Last)
	}
	subnet := prefix.Masked()
	if !subnet.Contains(r.First) || !subnet.Contains(r.Last) {
		return r, malformed(n, "range %s - %s is not entirely within network %s", r.First, r.Last, prefix)
	}
	if prefix.Addr().Is6() {
		if r.First == subnet.Addr() {
			return r, malformed(n, "range %s - %s contains the address of all routers in network %s", r.First, r.Last, prefix)
		}
	} else if first, last := ends(subnet); prefix.Bits() < 31 && (r.First == first || r.Last == last) {
		return r, malformed(n, "range %s - %s contains the network's own or its broadcast address in network %s", r.First, r.Last, prefix)
	}
	r.Lease, err = readLease(n)
	return r, err
}

// ends returns the first and the last address of an IPv4 subnet.
func ends(p netip.Prefix) (first, last netip.Addr) {
	b := p.Addr().As4()
	mask := maskOf(p.Bits())
	for i := range b {
		b[i] |= ^mask[i]
	}
	return p.Addr(), netip.AddrFrom4(b)
}

// readLease reads <lease> of a range or host.
func readLease(n *xmltree.Node) (time.Duration, error) {
	l := n.Child("lease")
	if l == nil {
		return 0, nil
	}
	count, err := strconv.ParseUint(l.Attr("expiry"), 10, 32)
	if err != nil {
		return 0, malformed(l, "Invalid expiry value '%s'", l.Attr("expiry"))
	}
	unit, ok := map[string]time.Duration{"": time.Minute, "seconds": time.Second, "minutes": time.Minute, "hours": time.Hour}[l.Attr("unit")]
	if !ok {
		return 0, malformed(l, "Invalid unit '%s'", l.Attr("unit"))
	}
	t := time.Duration(count) * unit
	switch {
	case count == 0:
		return -1, nil
	case t < dhcp.MinLease:
		return 0, malformed(l, "The minimum lease time should be greater than 2 minutes")
	case t/time.Second > 1<<32-2:
		return 0, malformed(l, "Lease time of %d %s is too long; write expiry='0' for leases that never end", count, l.Attr("unit"))
	}
	return t, nil
}

func readDHCPHost(n *xmltree.Node, prefix netip.Prefix) (dhcp.Host, error) {
	h := dhcp.Host{ID: n.Attr("id"), Name: n.Attr("name")}
	if m := n.Attr("mac"); m != "" {
		mac, err := net.ParseMAC(m)
		if err != nil || len(mac) != 6 {
			return h, malformed(n, "Cannot parse MAC address '%s' in network", m)
		}
		if mac[0]&1 != 0 {
			return h, malformed(n, "expected unicast mac address, found multicast '%s'", m)
		}
		h.MAC = mac.String()
		n.SetAttr("mac", h.MAC)
	}
	if h.Name != "" && !isName(h.Name) {
		return h, malformed(n, "Cannot use host name '%s' in network", h.Name)
	}
	if h.MAC == "" && h.Name == "" && h.ID == "" {
		return h, malformed(n, "At least one of name, mac, or ip attribute must be specified for static host definition in network")
	}
	if prefix.Addr().Is6() && h.MAC != "" {
		return h, malformed(n, "Invalid to specify MAC address '%s' in network IPv6 static host definition", h.MAC)
	}
	if h.MAC == "" && h.ID == "" && prefix.Addr().Is4() {
		return h, unsupported(n, "dhcp host '%s' without mac or id is not supported: guests are told apart by these", h.Name)
	}
	text := n.Attr("ip")
	if text == "" && h.Name == "" {
		return h, malformed(n, "Missing IP address in static host definition for network")
	}
	if text != "" {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Is4() != prefix.Addr().Is4() || addr.Zone() != "" {
			return h, malformed(n, "Invalid IP address '%s' in static host definition", text)
		}
		if !prefix.Contains(addr) || addr == prefix.Addr() {
			return h, malformed(n, "address '%s' of a dhcp host is not one that guests can have in network %s", text, prefix)
		}
		h.IP = addr
	}
	var err error
	h.Lease, err = readLease(n)
	return h, err
}

func (d *definition) readDNS(root *xmltree.Node) error {
	n := root.Child("dns")
	d.dns.off = n.Attr("enable") == "no"
	d.dns.noPlain = n.Attr("forwardPlainNames") == "no"
	for _, f := range n.All("forwarder") {
		fw := dns.Forwarder{Domain: f.Attr("domain")}
		text := f.Attr("addr")
		addr, err := netip.ParseAddr(text)
		switch {
		case text == "" && fw.Domain == "":
			return malformed(f, "Invalid forwarder element in network %s: at least one of 'addr' and 'domain' is needed", d.name)
		case text != "" && err != nil:
			return malformed(f, "Invalid forwarder IP address '%s' in network '%s'", text, d.name)
		case fw.Domain != "" && !isName(strings.TrimPrefix(fw.Domain, ".")):
			return malformed(f, "'%s' is not a domain name", fw.Domain)
		}
		fw.Addr = addr
		d.dns.forwarders = append(d.dns.forwarders, fw)
	}
	for _, t := range n.All("txt") {
		txt, err := readTXT(t)
		if err != nil {
			return err
		}
		d.dns.txt = append(d.dns.txt, txt)
	}
	for _, h := range n.All("host") {
		host, err := readDNSHost(h)
		if err != nil {
			return err
		}
		d.dns.hosts = append(d.dns.hosts, host)
	}
	for _, s := range n.All("srv") {
		srv, err := readSRV(s)
		if err != nil {
			return err
		}
		d.dns.srv = append(d.dns.srv, srv)
	}
	return nil
}

// maxTXT is the longest text of a record, in bytes: one character string (RFC 1035, 3.3).
const maxTXT = 255

func readTXT(n *xmltree.Node) (dns.TXT, error) {
	t := dns.TXT{Name: n.Attr("name"), Value: n.Attr("value")}
	switch {
	case t.Name == "":
		return t, malformed(n, "missing required name attribute in DNS TXT record")
	case strings.Contains(t.Name, " "):
		return t, malformed(n, "prohibited space character in DNS TXT record name '%s'", t.Name)
	case !isName(t.Name):
		return t, malformed(n, "'%s' is not a domain name", t.Name)
	case t.Value == "":
		return t, malformed(n, "missing required value attribute in DNS TXT record named '%s'", t.Name)
	case len(t.Value) > maxTXT:
		return t, unsupported(n, "DNS TXT record '%s' is longer than %d bytes", t.Name, maxTXT)
	}
	return t, nil
}

func readDNSHost(n *xmltree.Node) (dns.Host, error) {
	addr, err := netip.ParseAddr(n.Attr("ip"))
	if err != nil || addr.Zone() != "" {
		return dns.Host{}, malformed(n, "Invalid IP address '%s' in DNS HOST record", n.Attr("ip"))
	}
	h := dns.Host{IP: addr}
	for _, name := range n.All("hostname") {
		if !isName(name.Trimmed()) {
			return h, malformed(name, "'%s' is not a host name", name.Trimmed())
		}
		h.Names = append(h.Names, name.Trimmed())
	}
	if len(h.Names) == 0 {
		return h, malformed(n, "Missing hostname in network DNS HOST record")
	}
	return h, nil
}

func readSRV(n *xmltree.Node) (dns.SRV, error) {
	s := dns.SRV{Service: n.Attr("service"), Protocol: n.Attr("protocol"), Domain: n.Attr("domain"), Target: n.Attr("target")}
	if s.Service == "" || !isName(s.Service) || len(s.Service) > 63 {
		return s, malformed(n, "missing or wrong service attribute '%s' in DNS SRV record", s.Service)
	}
	if s.Protocol != "tcp" && s.Protocol != "udp" {
		return s, malformed(n, "Invalid protocol attribute value '%s' in DNS SRV record of service '%s'", s.Protocol, s.Service)
	}
	for _, name := range []string{s.Domain, s.Target} {
		if name != "" && name != "." && !isName(name) {
			return s, malformed(n, "'%s' is not a domain name", name)
		}
	}
	for _, f := range []struct {
		attr string
		to   *uint16
	}{{"port", &s.Port}, {"priority", &s.Priority}, {"weight", &s.Weight}} {
		text, given := n.LookupAttr(f.attr)
		if !given {
			continue
		}
		if s.Target == "" {
			return s, malformed(n, "DNS SRV record attribute '%s' not permitted without target in service '%s'", f.attr, s.Service)
		}
		v, err := strconv.ParseUint(text, 10, 16)
		if err != nil || f.attr == "port" && v == 0 {
			return s, malformed(n, "Invalid DNS SRV record %s attribute '%s' of service '%s'", f.attr, text, s.Service)
		}
		*f.to = uint16(v)
	}
	return s, nil
}
