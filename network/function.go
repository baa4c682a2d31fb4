package network

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/network/portconf"
	"virtd/virterr"
)

// A network of mode hostdev is a pool of virtual functions of the host's cards: each port is one of them, which the guest has
// for itself. They are those that a physical function has at the time, or those that the document lists.

// functions reports whether the network is a pool of virtual functions.
func (d *definition) functions() bool { return d.forward.mode == ModeHostdev }

// onlyFunctions refuses in other modes what is for pools of functions.
func (d *definition) onlyFunctions(n *xmltree.Node) error {
	for _, name := range []string{"pf", "address", "driver"} {
		if e := n.Child(name); e != nil {
			return unsupported(e, "<%s> is for forward mode 'hostdev', not '%s' (network '%s')", name, d.forward.mode, d.name)
		}
	}
	return nil
}

// readFunctions reads <forward mode='hostdev'>. Beside a <pf>, the addresses are those that a running network listed.
func (d *definition) readFunctions(n *xmltree.Node) error {
	if e := n.Child("interface"); e != nil || d.forward.dev != "" {
		return malformed(n, "forward mode 'hostdev' of network '%s' takes no interfaces: <pf dev='enp1s0'/> names the card, or <address type='pci' .../> each of its virtual functions", d.name)
	}
	if driver := n.Child("driver"); driver != nil && driver.Attr("name") != "vfio" {
		return unsupported(driver, "driver name '%s' is not supported in network '%s'; the driver is vfio", driver.Attr("name"), d.name)
	}
	switch n.Attr("managed") {
	case "":
		n.SetAttr("managed", "no") // as libvirt prints it
	case "yes":
		d.forward.managed = true
	case "no":
	default:
		return malformed(n, "managed='%s' must be yes or no", n.Attr("managed"))
	}
	if pf := n.Child("pf"); pf != nil {
		d.forward.pf = pf.Attr("dev")
		if d.forward.pf == "" {
			return malformed(pf, "Missing required dev attribute in <pf> element of network '%s'", d.name)
		}
		n.RemoveAll("address")
		if err := linkName(pf, d.forward.pf); err != nil {
			return err
		}
		return order(n)
	}
	for _, a := range n.All("address") {
		if err := d.readFunction(a); err != nil {
			return err
		}
	}
	if len(d.forward.functions) == 0 {
		return malformed(n, "forward mode 'hostdev' of network '%s' needs virtual functions: <pf dev='enp1s0'/>, or <address type='pci' .../> for each", d.name)
	}
	return order(n)
}

func (d *definition) readFunction(a *xmltree.Node) error {
	if t := a.Attr("type"); t != "pci" {
		return malformed(a, "address type='%s' in <forward> of network '%s' must be pci", t, d.name)
	}
	f, err := portconf.ReadFunction(a)
	switch {
	case err != nil:
		return fromNetwork(err)
	case f == portconf.Function{}:
		return malformed(a, "<address> in <forward> of network '%s' says no address", d.name)
	case slices.Contains(d.forward.functions, f):
		return malformed(a, "PCI device %s is given twice in the pool of network '%s'", f, d.name)
	}
	f.Write(a)
	a.RemoveAttr("connections")
	d.forward.functions = append(d.forward.functions, f)
	return nil
}

// fitsFunctions refuses what virtual functions cannot do.
func (d *definition) fitsFunctions(root *xmltree.Node) error {
	if b := root.Child("bridge"); d.bridge != "" {
		return malformed(b, "bridge name not allowed in %s mode (network '%s')", d.forward.mode, d.name)
	}
	if d.isolate {
		return unsupported(root.Child("port"), "isolated ports are not possible in network '%s': its ports are virtual functions; use VLANs", d.name)
	}
	if _, err := d.vlan.SingleTag(); err != nil {
		return unsupported(root.Child("vlan"), "network '%s': %v", d.name, err)
	}
	for _, g := range root.All("portgroup") {
		name := g.Attr("name")
		if b := g.Child("bandwidth"); b != nil {
			return unsupported(b, "Unsupported <bandwidth> element in network '%s' in portgroup '%s' with forward mode='%s'", d.name, name, d.forward.mode)
		}
		vlan, err := portconf.ReadVLAN(g)
		if err == nil {
			_, err = vlan.SingleTag()
		}
		if err != nil {
			return unsupported(g, "portgroup '%s' of network '%s': %v", name, d.name, err)
		}
	}
	return nil
}

// functionsOf returns the functions of a pool that the host has, or is said to have. The manager's lock is not held.
func (m *Manager) functionsOf(d *definition) ([]portconf.Function, error) {
	if d.forward.pf == "" {
		return d.forward.functions, nil
	}
	list, err := m.cfg.Host.Functions(d.forward.pf)
	if err != nil {
		return nil, failure(virterr.OperationFailed, "network '%s' has no devices to give: %w", d.name, err)
	}
	if len(list) == 0 {
		return nil, failure(virterr.InternalError, "No usable Vf's present on SRIOV PF %s (network '%s'; vctl sriov create %s COUNT)", d.forward.pf, d.name, d.forward.pf)
	}
	return list, nil
}

// connectFunction puts a port of a pool on a function that nobody has. Looking for one and taking it are one step for all
// pools, which may have functions in common.
func (m *Manager) connectFunction(n *Network, req Request) (*Port, error) {
	m.choosing.Lock()
	defer m.choosing.Unlock()
	m.mu.Lock()
	d := n.def
	m.mu.Unlock()
	list, err := m.functionsOf(d)
	if err != nil {
		return nil, err
	}
	f, given, err := req.wish.function(n, list)
	if err == nil && !given {
		f, err = m.freeFunction(d, list)
	}
	if err != nil {
		return nil, err
	}
	return n.connect(req, placement{function: f.String()})
}

// freeFunction finds the first function that has no port and that the host can spare.
func (m *Manager) freeFunction(d *definition, list []portconf.Function) (portconf.Function, error) {
	owner := map[string]string{}
	m.mu.Lock()
	for _, p := range m.ports {
		if p.Function != "" {
			owner[p.Function] = p.holder()
		}
	}
	m.mu.Unlock()
	var why []string
	given := true // to ports, all of them
	for _, f := range list {
		if name, taken := owner[f.String()]; taken {
			why = append(why, f.String()+" is with "+name)
			continue
		}
		err := m.cfg.Host.FunctionFree(f, d.forward.managed)
		if err == nil {
			return f, nil
		}
		given = false
		why = append(why, err.Error())
	}
	summary := fmt.Sprintf("all %d devices are in use", len(list))
	if !given {
		summary = fmt.Sprintf("none of its %d devices is free", len(list))
	}
	const most = 8 // of a card with many functions
	if more := len(why) - most; more > 0 {
		why = append(why[:most], fmt.Sprintf("and %d more", more))
	}
	return portconf.Function{}, failure(virterr.InternalError, "network '%s' requires exclusive access to interfaces, but none are available: %s (%s)",
		d.name, summary, strings.Join(why, "; "))
}

// placeFunction makes a port that of a virtual function.
func (n *Network) placeFunction(p *Port, req Request, function string) error {
	if p.Limits.Limited() {
		return failure(virterr.ConfigUnsupported, "interface %s - bandwidth settings are not supported for hostdev interfaces (network '%s')", req.MAC, n.def.name)
	}
	if p.Isolated {
		return notIsolated(p, "hostdev") // as domains call it
	}
	if _, err := p.VLAN.SingleTag(); err != nil {
		return failure(virterr.ConfigUnsupported, "interface %s on network '%s': %w", req.MAC, n.def.name, err)
	}
	p.Function, p.Managed = function, n.def.forward.managed
	return nil
}

// listFunctions shows in a running network's document which functions it has, and how many ports are on each.
func listFunctions(forward *xmltree.Node, pool []portconf.Function, ports []*Port) {
	count := map[string]int{}
	for _, p := range ports {
		count[p.Function]++
		if f, err := portconf.ParseFunction(p.Function); err == nil && !slices.Contains(pool, f) { // it is gone since
			pool = append(slices.Clip(pool), f)
		}
	}
	forward.RemoveAll("address")
	for _, f := range pool {
		a := forward.Append(xmltree.New("address", "type", "pci"))
		f.Write(a)
		if c := count[f.String()]; c > 0 {
			a.SetAttr("connections", strconv.Itoa(c))
		}
	}
}

// functionPlug is how a port's document shows the function.
func (p *Port) functionPlug() *xmltree.Node {
	plug := xmltree.New("plug", "type", plugHostdev, "managed", map[bool]string{true: "yes", false: "no"}[p.Managed])
	plug.Append(xmltree.New("driver", "name", "vfio"))
	if f, err := portconf.ParseFunction(p.Function); err == nil {
		f.Write(plug.Append(xmltree.New("address")))
	}
	return plug
}
