package network

import (
	"crypto/rand"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// Mode is how a network reaches the world (<forward mode=>).
type Mode string

// Modes of forwarding. The zero value is an isolated network.
const (
	ModeIsolated Mode = ""
	ModeNAT      Mode = "nat"
	ModeRoute    Mode = "route"
	ModeOpen     Mode = "open"
	ModeBridge   Mode = "bridge" // an existing bridge of the host, or macvtaps on its links

	// Macvtaps on links of the host, which reach each other through the switch beside the host, not at all, or have a link
	// each.
	ModeVEPA        Mode = "vepa"
	ModePrivate     Mode = "private"
	ModePassthrough Mode = "passthrough"

	ModeHostdev Mode = "hostdev" // virtual functions of the host's cards
)

// definition is what a network's XML says. It is immutable: doc is the truth, the fields are what starting it needs.
type definition struct {
	doc *xmltree.Document

	uuid    uuid.UUID
	name    string
	forward forward
	bridge  string // "" or with %d: to be chosen
	stp     bool
	delay   int // seconds
	mtu     int // bytes; 0: the kernel's
	mac     net.HardwareAddr
	isolate bool // ports do not reach each other
	vlan    portconf.VLAN
	limits  portconf.Bandwidth // of the bridge
	groups  []group
	host    *hostLink

	domain    string
	localOnly bool // names in the domain are never asked of others
	dns       dnsConfig
	ips       []ipConfig
	routes    []routeConfig
}

// forward is <forward>.
type forward struct {
	mode Mode
	dev  string   // only through this interface of the host
	devs []string // the links of a pool

	// A pool of virtual functions: those of a card, by the name of its interface, or some.
	pf        string
	functions []portconf.Function
	managed   bool // virtd takes them from their drivers

	ipv6    bool // IPv6 is translated too
	sources [2]netip.Addr
	ports   [2]uint16
}

// ipConfig is one <ip>: an address of the host on the bridge, and what is leased on that subnet.
type ipConfig struct {
	prefix   netip.Prefix // the host's address, with the subnet's length
	localPtr bool
	dhcp     *dhcpConfig
	tftp     string // the directory that guests read files from, or ""
}

// routeConfig is one <route>: what is reached through a guest.
type routeConfig struct {
	to      netip.Prefix
	gateway netip.Addr
	metric  int
}

// ownsBridge reports whether the network makes its bridge, as opposed to using one that exists.
func (d *definition) ownsBridge() bool { return d.forward.mode.ownsBridge() }

func (m Mode) ownsBridge() bool {
	return m != ModeBridge && m != ModeVEPA && m != ModePrivate && m != ModePassthrough && m != ModeHostdev
}

// parse reads a network's XML. A UUID that is missing is made up.
func parse(text string) (*definition, error) {
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	return build(doc)
}

// build makes a definition of a document, which it takes over.
func build(doc *xmltree.Document) (*definition, error) {
	root := doc.Root
	if !root.Is("network") {
		return nil, malformed(root, "unexpected root element <%s>, expecting <network>", root.Name)
	}
	if err := order(root); err != nil {
		return nil, err
	}
	root.RemoveAttr("connections")
	d := &definition{doc: doc}
	for _, read := range []func(*xmltree.Node) error{d.readIdentity, d.readForward, d.readBridge, d.readNames, d.readIPs, d.readRoutes, d.readDNS, d.readLimits, d.readGroups, d.fits} {
		if err := read(root); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *definition) readIdentity(root *xmltree.Node) error {
	d.name = root.Child("name").Trimmed()
	if d.name == "" {
		return malformed(root, "missing network name")
	}
	if strings.ContainsAny(d.name, "/\n") {
		return malformed(root.Child("name"), "name %s cannot contain '/'", d.name)
	}
	n := root.Child("uuid")
	if n == nil || n.Trimmed() == "" {
		d.uuid = uuid.New()
		if n == nil {
			n = root.InsertAt(indexOf(root, "name")+1, xmltree.New("uuid"))
		}
		n.SetContent(d.uuid.String())
		return nil
	}
	id, err := uuid.Parse(n.Trimmed())
	if err != nil {
		return malformed(n, "malformed uuid element '%s'", n.Trimmed())
	}
	d.uuid = id
	n.SetContent(id.String())
	return nil
}

func (d *definition) readForward(root *xmltree.Node) error {
	n := root.Child("forward")
	if n == nil {
		return nil
	}
	mode, given := n.LookupAttr("mode")
	switch mode {
	case "nat", "route", "open", "bridge", "private", "vepa", "passthrough", "hostdev":
	case "none":
		n.Remove()
		return nil
	case "":
		if given {
			return malformed(n, "unknown forwarding type ''")
		}
		mode = "nat"
		n.SetAttr("mode", mode)
	default:
		return malformed(n, "unknown forwarding type '%s'", mode)
	}
	d.forward.mode = Mode(mode)
	d.forward.dev = n.Attr("dev")
	if err := d.readForwardInterfaces(n); err != nil {
		return err
	}
	if d.forward.dev != "" {
		if err := linkName(n, d.forward.dev); err != nil {
			return err
		}
	}
	return d.readNAT(n)
}

// readForwardInterfaces reads the long form of dev=.
func (d *definition) readForwardInterfaces(n *xmltree.Node) error {
	if d.functions() {
		return d.readFunctions(n)
	}
	if err := d.onlyFunctions(n); err != nil {
		return err
	}
	if !d.ownsBridge() {
		return d.readPool(n)
	}
	devs := n.All("interface")
	switch {
	case len(devs) == 0 && d.forward.dev == "":
		return nil
	case len(devs) == 0: // libvirt prints both forms
		n.InsertAt(0, xmltree.New("interface", "dev", d.forward.dev))
		return order(n)
	case len(devs) > 1:
		return malformed(devs[1], "forward mode '%s' takes one interface", d.forward.mode)
	case d.forward.dev != "" && devs[0].Attr("dev") != d.forward.dev:
		return malformed(devs[0], "forward dev '%s' must match first interface element dev '%s' in network '%s'", d.forward.dev, devs[0].Attr("dev"), d.name)
	}
	devs[0].RemoveAttr("connections")
	d.forward.dev = devs[0].Attr("dev")
	n.SetAttr("dev", d.forward.dev)
	return order(n)
}

// NAT takes ports from 1024 on unless the document says otherwise, as libvirt's does.
const lowNATPort, highNATPort = 1024, 65535

func (d *definition) readNAT(n *xmltree.Node) error {
	nat := n.Child("nat")
	if d.forward.mode != ModeNAT {
		if nat != nil {
			return malformed(nat, "<nat> is only for forward mode 'nat', not '%s'", d.forward.mode)
		}
		return nil
	}
	d.forward.ipv6 = nat.Attr("ipv6") == "yes"
	if a := nat.Child("address"); a != nil {
		for i, attr := range []string{"start", "end"} {
			addr, err := netip.ParseAddr(a.Attr(attr))
			if err != nil || !addr.Is4() {
				return malformed(a, "invalid %s address '%s' in <nat>: an IPv4 address is needed", attr, a.Attr(attr))
			}
			d.forward.sources[i] = addr
		}
		if d.forward.sources[1].Less(d.forward.sources[0]) {
			return malformed(a, "<nat> address range %s - %s is reversed", d.forward.sources[0], d.forward.sources[1])
		}
	}
	d.forward.ports = [2]uint16{lowNATPort, highNATPort}
	p := nat.Child("port")
	if p == nil {
		n.Ensure("nat").Append(xmltree.New("port", "start", strconv.Itoa(lowNATPort), "end", strconv.Itoa(highNATPort)))
		return nil
	}
	for i, attr := range []string{"start", "end"} {
		v, err := strconv.ParseUint(p.Attr(attr), 10, 16)
		if err != nil || v == 0 {
			return malformed(p, "invalid %s port '%s' in <nat>", attr, p.Attr(attr))
		}
		d.forward.ports[i] = uint16(v)
	}
	if d.forward.ports[1] < d.forward.ports[0] {
		return malformed(p, "<nat> port range %d - %d is reversed", d.forward.ports[0], d.forward.ports[1])
	}
	return nil
}

func (d *definition) readBridge(root *xmltree.Node) error {
	n := root.Child("bridge")
	d.bridge, d.stp = n.Attr("name"), n.Attr("stp") != "off"
	if d.bridge != "" && !strings.Contains(d.bridge, "%d") {
		if err := linkName(n, d.bridge); err != nil {
			return err
		}
	} else if d.bridge != "" && (strings.Count(d.bridge, "%") != 1 || len(d.bridge) > maxLinkName) {
		return malformed(n, "bridge name '%s' is not the name of a network link, nor one with a single %%d", d.bridge)
	}
	if m := n.Attr("macTableManager"); m != "" && m != "kernel" {
		return unsupported(n, "macTableManager='%s' is not supported; the kernel does it", m)
	}
	if v := n.Attr("delay"); v != "" {
		delay, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return malformed(n, "Invalid delay value '%s' in network '%s'", v, d.name)
		}
		d.delay = int(delay)
	}
	if v := root.Child("mtu"); v != nil {
		mtu, err := strconv.ParseUint(v.Attr("size"), 10, 17)
		if err != nil || mtu < 68 || mtu > 65535 {
			return malformed(v, "mtu size='%s' must be from 68 to 65535", v.Attr("size"))
		}
		d.mtu = int(mtu)
	}
	if m := root.Child("mac"); m != nil {
		mac, err := net.ParseMAC(m.Attr("address"))
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return malformed(m, "Invalid bridge mac address '%s' in network '%s'", m.Attr("address"), d.name)
		}
		d.mac = mac
		m.SetAttr("address", mac.String())
	}
	d.isolate = root.Child("port").Attr("isolated") == "yes"
	return nil
}

// maxLinkName is the longest name of a network link, in bytes (IFNAMSIZ less the terminating zero).
const maxLinkName = 15

func linkName(n *xmltree.Node, name string) error {
	if len(name) > maxLinkName || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\r%") {
		return malformed(n, "'%s' is not the name of a network link: 1 to %d characters without '/', ':', '%%' and white space", name, maxLinkName)
	}
	return nil
}

// fits refuses what does not go together.
func (d *definition) fits(root *xmltree.Node) error {
	if d.ownsBridge() {
		return d.fitsOwn(root)
	}
	if n := root.Child("bandwidth"); n != nil {
		return unsupported(n, "Unsupported network-wide <bandwidth> element in network %s with forward mode='%s'", d.name, d.forward.mode)
	}
	if d.functions() {
		if err := d.fitsFunctions(root); err != nil {
			return err
		}
	} else if d.direct() {
		if err := d.fitsPool(root); err != nil {
			return err
		}
	} else if d.bridge == "" || strings.Contains(d.bridge, "%d") {
		return unsupported(root.Child("forward"), "forward mode 'bridge' needs the name of an existing bridge, <bridge name='br0'/>, or the host's links, <interface dev='eth0'/>")
	}
	for _, name := range []string{"mac", "domain", "dns", "ip", "route", "mtu"} {
		if n := root.Child(name); n != nil {
			return unsupported(n, "Unsupported <%s> element in network %s with forward mode='%s'", name, d.name, d.forward.mode)
		}
	}
	b := root.Child("bridge")
	for _, attr := range []string{"stp", "delay"} {
		if _, given := b.LookupAttr(attr); given {
			return unsupported(b, "bridge %s is not supported in network %s with forward mode='%s': the bridge is not virtd's", attr, d.name, d.forward.mode)
		}
	}
	return nil
}

// complete returns the definition with what is assigned once and then kept: the bridge's name and MAC address, and the
// defaults that libvirt prints.
func (d *definition) complete(bridge string) (*definition, error) {
	if !d.ownsBridge() {
		return d, nil
	}
	return d.edit(func(root *xmltree.Node) error {
		n := place(root, "bridge")
		n.SetAttr("name", bridge)
		for _, a := range [][2]string{{"stp", "on"}, {"delay", "0"}} {
			if n.Attr(a[0]) == "" {
				n.SetAttr(a[0], a[1])
			}
		}
		if d.mac != nil {
			return nil
		}
		mac, err := newMAC()
		if err == nil {
			place(root, "mac").SetAttr("address", mac.String())
		}
		return err
	})
}

// newMAC makes an address with the prefix that libvirt uses.
func newMAC() (net.HardwareAddr, error) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0}
	if _, err := rand.Read(mac[3:]); err != nil {
		return nil, failure(virterr.InternalError, "cannot generate a MAC address: %w", err)
	}
	return mac, nil
}

// edit returns a definition changed by f, which gets a copy of the tree.
func (d *definition) edit(f func(root *xmltree.Node) error) (*definition, error) {
	doc := d.doc.Clone()
	if err := f(doc.Root); err != nil {
		return nil, err
	}
	return build(doc)
}

// xml prints the document as it is stored.
func (d *definition) xml() string { return d.doc.String() }

// liveXML prints the document of a running network, with how many ports it has and, of a pool of them, its functions.
func (d *definition) liveXML(ports []*Port, pool []portconf.Function) string {
	if len(ports)+len(pool) == 0 {
		return d.xml()
	}
	doc := d.doc.Clone()
	n := strconv.Itoa(len(ports))
	if len(ports) > 0 {
		doc.Root.Attrs = slices.Insert(doc.Root.Attrs, 0, xmltree.Attr{Name: xmltree.Name{Local: "connections"}, Value: n})
	}
	if d.functions() {
		listFunctions(doc.Root.Child("forward"), pool, ports)
	} else if d.direct() {
		on := map[string]int{}
		for _, p := range ports {
			on[p.Dev]++
		}
		for _, dev := range doc.Root.Child("forward").All("interface") {
			if c := on[dev.Attr("dev")]; c > 0 {
				dev.SetAttr("connections", strconv.Itoa(c))
			}
		}
	} else if dev := doc.Root.Child("forward", "interface"); dev != nil {
		dev.SetAttr("connections", n)
	}
	return doc.String()
}

// place returns the root's child of that name, made where libvirt prints it.
func place(root *xmltree.Node, name string) *xmltree.Node {
	if n := root.Child(name); n != nil {
		return n
	}
	rank := slices.Index(words["network"].children, name)
	at := len(root.Children)
	for i, c := range root.Children {
		if c.Kind == xmltree.Element && slices.Index(words["network"].children, c.Name.String()) > rank {
			at = i
			break
		}
	}
	return root.InsertAt(at, xmltree.New(name))
}

func indexOf(n *xmltree.Node, name string) int {
	return slices.IndexFunc(n.Children, func(c *xmltree.Node) bool { return c.Is(name) })
}
