package network

import (
	"slices"
	"strings"

	"virtd/domain/xmltree"
)

// word is one element of the document of a network, or of a port: its attributes, and its children in the order in which libvirt prints them.
// What is not in the vocabulary would change what the network is, so it is refused rather than dropped.
type word struct {
	attrs    []string
	children []string
	many     []string          // children that may be given more than once
	refused  map[string]string // children that libvirt knows: why they are refused
}

func list(s string) []string { return strings.Fields(s) }

// noVirtualPort is why ports of other switches are refused.
const noVirtualPort = "there are no Open vSwitch or 802.1Qbg ports"

var words = map[string]word{
	"network": {
		attrs:    list("ipv6 trustGuestRxFilters connections"),
		children: list("name uuid title description metadata forward bridge mtu mac domain dns vlan bandwidth port ip route portgroup"),
		many:     list("ip route portgroup"),
		refused:  map[string]string{"virtualport": noVirtualPort},
	},
	"forward": {
		attrs:    list("dev mode managed"),
		children: list("driver nat pf interface address"),
		many:     list("interface address"),
	},
	"driver":          {attrs: list("name")},
	"pf":              {attrs: list("dev")},
	"forward/address": {attrs: list("type domain bus slot function connections")},
	"nat":             {attrs: list("ipv6"), children: list("address port")},
	"address":         {attrs: list("start end")},
	"nat/port":        {attrs: list("start end")},
	"interface":       {attrs: list("dev connections")},
	"bridge":          {attrs: list("name zone stp delay macTableManager")},
	"mtu":             {attrs: list("size")},
	"mac":             {attrs: list("address")},
	"domain":          {attrs: list("name localOnly register")},
	"dns": {
		attrs:    list("enable forwardPlainNames"),
		children: list("forwarder txt host srv"),
		many:     list("forwarder txt host srv"),
	},
	"forwarder": {attrs: list("domain addr")},
	"txt":       {attrs: list("name value")},
	"dns/host":  {attrs: list("ip"), children: list("hostname"), many: list("hostname")},
	"srv":       {attrs: list("service protocol domain target port priority weight")},
	"port":      {attrs: list("isolated")},
	"ip": {
		attrs:    list("family address netmask prefix localPtr"),
		children: list("tftp dhcp"),
	},
	"tftp": {attrs: list("root")},
	"dhcp": {
		children: list("range host bootp"),
		many:     list("range host"),
	},
	"range":     {attrs: list("start end"), children: list("lease")},
	"dhcp/host": {attrs: list("mac id name ip"), children: list("lease")},
	"lease":     {attrs: list("expiry unit")},
	"bootp":     {attrs: list("file server")},
	"route":     {attrs: list("family address netmask prefix gateway metric")},
	"portgroup": {
		attrs:    list("name default trustGuestRxFilters"),
		children: list("vlan bandwidth"),
		refused:  map[string]string{"virtualport": noVirtualPort},
	},
	"networkport": {
		children: list("uuid owner group mac bandwidth vlan port rxfilters plug"),
		refused:  map[string]string{"virtualport": noVirtualPort},
	},
	"owner":     {children: list("name uuid")},
	"rxfilters": {attrs: list("trustGuest")},
	"plug": {
		attrs:    list("type bridge macTableManager dev mode managed"),
		children: list("driver address"),
	},
	"plug/address": {attrs: list("domain bus slot function")},
	"bandwidth":    {children: list("inbound outbound"), many: list("inbound outbound")},
	"inbound":      {attrs: list("average peak floor burst")},
	"outbound":     {attrs: list("average peak floor burst")},
	"vlan":         {attrs: list("trunk"), children: list("tag"), many: list("tag")},
	"tag":          {attrs: list("id nativeMode")},
}

// lookupWord returns the word for an element: by the names of its parent and its own, or its own alone.
func lookupWord(n *xmltree.Node) word {
	if p := n.Parent(); p != nil {
		if w, ok := words[p.Name.Local+"/"+n.Name.Local]; ok {
			return w
		}
	}
	return words[n.Name.Local]
}

// order refuses what is not in the vocabulary and puts elements into libvirt's order. A comment stays before the element
// that it stood before.
func order(n *xmltree.Node) error {
	if n.Is("metadata") {
		return nil
	}
	w := lookupWord(n)
	for _, a := range n.Attrs {
		if a.Name.Prefix == "" && a.Name.Local != "xmlns" && !slices.Contains(w.attrs, a.Name.Local) {
			return unsupported(n, "attribute %s='%s' of <%s> (%s) is not supported; remove it", a.Name, a.Value, n.Name, n.Path())
		}
	}
	seen := map[string]bool{}
	for _, c := range n.Elements() {
		if err := w.admit(n, c, seen); err != nil {
			return err
		}
		if err := order(c); err != nil {
			return err
		}
	}
	w.sort(n)
	slices.SortStableFunc(n.Attrs, func(a, b xmltree.Attr) int {
		return slices.Index(w.attrs, a.Name.Local) - slices.Index(w.attrs, b.Name.Local)
	})
	return nil
}

// admit checks one child of n.
func (w word) admit(n, c *xmltree.Node, seen map[string]bool) error {
	const dnsmasq = "http://libvirt.org/schemas/network/dnsmasq/1.0"
	if uri, _ := c.Namespace(c.Name.Prefix); uri == dnsmasq {
		return unsupported(c, "<%s> is not supported: there is no dnsmasq to pass it to", c.Name)
	}
	name := c.Name.String()
	if why := w.refused[name]; why != "" {
		return unsupported(c, "element <%s> (%s) is not supported: %s", name, c.Path(), why)
	}
	if !slices.Contains(w.children, name) {
		return unsupported(c, "<%s> in <%s> is not supported; remove it", name, n.Name)
	}
	if seen[name] && !slices.Contains(w.many, name) {
		return malformed(c, "element <%s> is given twice in <%s>", name, n.Name)
	}
	seen[name] = true
	return nil
}

// sort puts n's children into order; those of one name keep theirs.
func (w word) sort(n *xmltree.Node) {
	if len(n.Elements()) < 2 {
		return
	}
	type group struct {
		rank  int
		nodes []*xmltree.Node
	}
	var groups []group
	var pending []*xmltree.Node
	for _, c := range slices.Clone(n.Children) {
		pending = append(pending, c)
		if c.Kind == xmltree.Element {
			groups = append(groups, group{slices.Index(w.children, c.Name.String()), pending})
			pending = nil
		}
	}
	groups = append(groups, group{len(w.children), pending})
	slices.SortStableFunc(groups, func(a, b group) int { return a.rank - b.rank })
	n.Children = nil
	for _, g := range groups {
		n.Children = append(n.Children, g.nodes...)
	}
}
