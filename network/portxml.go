package network

import (
	"net"
	"slices"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// The types of <plug>.
const (
	plugNetwork = "network"
	plugBridge  = "bridge"
	plugDirect  = "direct"
	plugHostdev = "hostdev-pci"
)

// plugAttrs are the attributes of each type.
var plugAttrs = map[string][]string{
	"": nil, "none": nil, plugNetwork: list("bridge macTableManager"), plugBridge: list("bridge macTableManager"),
	plugDirect: list("dev mode"), plugHostdev: list("managed"),
}

// parsePort reads a <networkport> document as a request for a port. A UUID that is missing is made up, unless the document must
// be whole.
func parsePort(text string, whole bool) (Request, error) {
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return Request{}, err
	}
	root := doc.Root
	if !root.Is("networkport") {
		return Request{}, malformed(root, "unexpected root element <%s>, expecting <networkport>", root.Name)
	}
	if err := order(root); err != nil {
		return Request{}, err
	}
	req := Request{Group: root.Child("group").Trimmed(), wish: &wish{}}
	for _, read := range []func(*xmltree.Node) error{
		func(n *xmltree.Node) error { return req.wish.readID(n, whole) }, req.readOwner, req.readLimits, req.wish.readAnswers, req.wish.readPlug,
	} {
		if err := read(root); err != nil {
			return Request{}, err
		}
	}
	req.Isolated = req.wish.isolated == "yes"
	return req, nil
}

func (w *wish) readID(root *xmltree.Node, whole bool) (err error) {
	text := root.Child("uuid").Trimmed()
	switch {
	case text == "" && whole:
		return failure(virterr.XMLInvalidSchema, "network port has no uuid")
	case text == "":
		w.id = uuid.New()
		return nil
	}
	w.id, err = portUUID(text)
	return err
}

func portUUID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return id, failure(virterr.InternalError, "Unable to parse UUID '%s'", text)
	}
	return id, nil
}

// readOwner reads who the port is for.
func (r *Request) readOwner(root *xmltree.Node) (err error) {
	owner := root.Child("owner")
	r.Owner.Name = owner.Child("name").Trimmed()
	id := owner.Child("uuid").Trimmed()
	address := root.Child("mac").Attr("address")
	switch {
	case r.Owner.Name == "":
		return failure(virterr.InternalError, "network port has no owner name")
	case id == "":
		return failure(virterr.InternalError, "network port has no owner UUID")
	case address == "":
		return failure(virterr.InternalError, "network port has no mac")
	}
	if r.Owner.UUID, err = portUUID(id); err != nil {
		return err
	}
	mac, err := net.ParseMAC(address)
	if err != nil || len(mac) != 6 {
		return failure(virterr.InternalError, "Unable to parse MAC '%s'", address)
	}
	if mac[0]&1 != 0 {
		return malformed(root.Child("mac"), "expected unicast mac address, found multicast '%s'", address)
	}
	r.MAC = mac.String()
	return nil
}

func (r *Request) readLimits(root *xmltree.Node) (err error) {
	if r.VLAN, err = portconf.ReadVLAN(root); err == nil {
		r.Limits, err = portconf.ReadBandwidth(root, true)
	}
	if err != nil {
		return fromNetwork(err)
	}
	return nil
}

// readAnswers reads what may be yes, no, or left to the network.
func (w *wish) readAnswers(root *xmltree.Node) error {
	for _, a := range []struct {
		n    *xmltree.Node
		name string
		to   *string
	}{
		{root.Child("port"), "isolated", &w.isolated}, {root.Child("rxfilters"), "trustGuest", &w.trust}, {root.Child("plug"), "managed", &w.plug.managed},
	} {
		text, given := a.n.LookupAttr(a.name)
		if given && text != "yes" && text != "no" {
			return malformed(a.n, "%s='%s' must be yes or no", a.name, text)
		}
		*a.to = text
	}
	return nil
}

func (w *wish) readPlug(root *xmltree.Node) error {
	n := root.Child("plug")
	if n == nil {
		return nil
	}
	kind := n.Attr("type")
	attrs, known := plugAttrs[kind]
	if !known {
		return malformed(n, "Invalid value for attribute 'type' in element 'plug': '%s'", kind)
	}
	for _, a := range n.Attrs {
		if a.Name.Local != "type" && !slices.Contains(attrs, a.Name.Local) {
			return malformed(n, "attribute %s='%s' does not belong to a plug of type '%s'", a.Name, a.Value, kind)
		}
	}
	if list := n.Elements(); len(list) > 0 && kind != plugHostdev {
		return malformed(list[0], "<%s> does not belong to a plug of type '%s'", list[0].Name, kind)
	}
	switch kind {
	case plugNetwork, plugBridge:
		w.plug.bridge = n.Attr("bridge")
		if w.plug.bridge == "" {
			return malformed(n, "Missing network port bridge name")
		}
		if m := n.Attr("macTableManager"); m != "" && m != "kernel" {
			return unsupported(n, "macTableManager='%s' is not supported; the kernel does it", m)
		}
		w.plug.kind = kind
	case plugDirect:
		w.plug.dev, w.plug.mode = n.Attr("dev"), n.Attr("mode")
		if w.plug.dev == "" {
			return malformed(n, "Missing network port link device name")
		}
		w.plug.kind = kind
	case plugHostdev:
		return w.readFunctionPlug(n)
	}
	return nil
}

func (w *wish) readFunctionPlug(n *xmltree.Node) error {
	if driver := n.Child("driver"); driver != nil && driver.Attr("name") != "vfio" {
		return unsupported(driver, "driver name '%s' is not supported in a network port; the driver is vfio", driver.Attr("name"))
	}
	a := n.Child("address")
	if a == nil {
		return malformed(n, "Missing network port PCI address")
	}
	f, err := portconf.ReadFunction(a)
	if err != nil {
		return fromNetwork(err)
	}
	w.plug.kind, w.plug.function = plugHostdev, f
	return nil
}
