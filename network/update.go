package network

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Command is what Update does (virNetworkUpdateCommand).
type Command int

// The commands.
const (
	Modify   Command = 1
	Delete   Command = 2
	AddLast  Command = 3
	AddFirst Command = 4
)

// Section is what Update is about (virNetworkUpdateSection).
type Section int

// The sections that can be changed.
const (
	SectionDHCPHost  Section = 4
	SectionDHCPRange Section = 5
	SectionPortGroup Section = 9
	SectionDNSHost   Section = 10
	SectionDNSTXT    Section = 11
	SectionDNSSRV    Section = 12
)

var sectionNames = []string{"none", "bridge", "domain", "ip", "ip-dhcp-host", "ip-dhcp-range", "forward", "forward-interface",
	"forward-pf", "portgroup", "dns-host", "dns-txt", "dns-srv"}

// Affect says which of the two definitions of an active network is changed (virNetworkUpdateFlags).
type Affect uint32

// The choices; AffectCurrent is what runs, or the definition of an inactive network.
const (
	AffectCurrent Affect = 0
	AffectLive    Affect = 1
	AffectConfig  Affect = 2
)

// Change is one change of a definition.
type Change struct {
	Command Command
	Section Section
	Index   int // of the <ip> that it is about; -1: the one that fits
	XML     string
}

// Update changes the network's definition, what runs, or both.
func (n *Network) Update(c Change, affect Affect) error {
	n.m.change.Lock()
	defer n.m.change.Unlock()
	n.m.mu.Lock()
	live, config, err := n.affected(affect)
	def, next := n.def, cmp.Or(n.next, n.def)
	n.m.mu.Unlock()
	if err != nil {
		return err
	}
	same, was := next == def, def
	if config {
		if next, err = next.update(c); err != nil {
			return err
		}
	}
	if live {
		if def, err = def.update(c); err != nil {
			return err
		}
		if err := n.applyLive(was, def); err != nil {
			return err
		}
	}
	if config {
		if err := n.m.records.Save(next); err != nil {
			return err
		}
	}
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.adopt(def, next, live && config && same)
	if config {
		n.emit(Defined)
	}
	return nil
}

// applyLive makes the running network follow a changed definition. On an error it is as it was, on record and for guests.
func (n *Network) applyLive(was, now *definition) error {
	if err := n.m.records.SetActive(now); err != nil {
		return err
	}
	if err := n.m.cfg.Host.Serve(now.spec()); err != nil {
		return errors.Join(err, n.m.records.SetActive(was), n.m.cfg.Host.Serve(was.spec()))
	}
	return nil
}

// adopt notes the definitions after a change. The manager's lock is held.
func (n *Network) adopt(def, next *definition, same bool) {
	switch {
	case !n.active:
		n.def, n.next = next, nil
	case same || def == next:
		n.def, n.next = def, nil
	case n.persistent:
		n.def, n.next = def, next
	default:
		n.def = def
	}
}

// affected resolves flags; the manager's lock is held.
func (n *Network) affected(a Affect) (live, config bool, err error) {
	if err := n.gone(); err != nil {
		return false, false, err
	}
	live, config = a&AffectLive != 0, a&AffectConfig != 0
	if a == AffectCurrent {
		live, config = n.active, !n.active
	}
	if live && !n.active {
		return false, false, failure(virterr.OperationInvalid, "network is not running")
	}
	if config && !n.persistent {
		return false, false, failure(virterr.OperationInvalid, "cannot change persistent config of a transient network")
	}
	return live, config, nil
}

// update returns the definition after a change.
func (d *definition) update(c Change) (*definition, error) {
	if c.Command < Modify || c.Command > AddFirst {
		return nil, failure(virterr.InvalidArg, "unrecognized network update command code %d", c.Command)
	}
	s, ok := sections[c.Section]
	if !ok {
		if c.Section <= 0 || int(c.Section) >= len(sectionNames) {
			return nil, failure(virterr.OperationUnsupported, "can't update unrecognized section of network")
		}
		return nil, failure(virterr.OperationUnsupported, "can't update '%s' section of network '%s'", sectionNames[c.Section], d.name)
	}
	doc, err := xmltree.Parse([]byte(c.XML))
	if err != nil {
		return nil, err
	}
	item := doc.Root
	if g, ok := d.group(""); ok && c.Section == SectionPortGroup && c.Command != Delete && item.Attr("default") == "yes" && g.name != item.Attr("name") {
		return nil, invalid("a different portgroup entry in network '%s' is already set as the default. Only one default is allowed.", d.name)
	}
	if !item.Is(s.element) {
		return nil, failure(virterr.XMLError, "unexpected element <%s>, expecting <%s>, while updating network '%s'", item.Name, s.element, d.name)
	}
	return d.edit(func(root *xmltree.Node) error {
		parent, err := d.updateParent(root, c, s)
		if err != nil {
			return err
		}
		if err := s.apply(d, parent, c.Command, item); err != nil {
			return err
		}
		if len(parent.Children) == 0 && len(parent.Attrs) == 0 {
			parent.Remove()
		}
		return nil
	})
}

// section is how one kind of element is changed.
type section struct {
	element string
	parent  string // dhcp, dns, or "" for the network itself
	same    func(a, b *xmltree.Node) bool
	clash   func(a, b *xmltree.Node) bool // the two cannot both be there
	modify  bool
	kind    string // in messages
	exists  func(d *definition, item *xmltree.Node) error
	missing func(d *definition, item *xmltree.Node) error
}

func (s section) apply(d *definition, parent *xmltree.Node, command Command, item *xmltree.Node) error {
	var found []*xmltree.Node
	match := s.same
	if command != Delete {
		match = s.clash
	}
	for _, e := range parent.All(s.element) {
		if match(e, item) {
			found = append(found, e)
		}
	}
	switch command {
	case Modify:
		if !s.modify {
			return failure(virterr.OperationInvalid, "%s cannot be modified, only added or deleted", s.kind)
		}
		if len(found) == 0 {
			if s.element == "portgroup" {
				return s.missing(d, item)
			}
			return failure(virterr.OperationInvalid, "couldn't locate an existing dhcp host entry with \"mac='%s'\" in network '%s'", orUnknown(item.Attr("mac")), d.name)
		}
		found[0].Replace(item)
	case Delete:
		if len(found) == 0 {
			return s.missing(d, item)
		}
		if len(found) > 1 && s.element != "range" {
			return failure(virterr.OperationInvalid, "multiple matching %s were found in network %s", s.kind, d.name)
		}
		found[0].Remove()
	default:
		if len(found) > 0 {
			return s.exists(d, item)
		}
		at := len(parent.Children)
		if i := indexOf(parent, s.element); command == AddFirst && i >= 0 {
			at = i
		}
		parent.InsertAt(at, item)
	}
	return nil
}

// updateParent finds the element that holds what is changed, and makes it where something is to be added.
func (d *definition) updateParent(root *xmltree.Node, c Change, s section) (*xmltree.Node, error) {
	switch s.parent {
	case "dns":
		return place(root, "dns"), nil
	case "":
		return root, nil
	}
	ips := root.All("ip")
	if c.Index >= 0 {
		if c.Index >= len(ips) {
			return nil, failure(virterr.OperationInvalid, "couldn't update dhcp %s entry - no <ip> element found at index %d in network '%s'", s.element, c.Index, d.name)
		}
		return ips[c.Index].Ensure("dhcp"), nil
	}
	for _, ip := range ips {
		if n := ip.Child("dhcp"); n != nil {
			return n, nil
		}
	}
	for _, ip := range ips {
		if ip.Attr("family") != "ipv6" {
			return ip.Ensure("dhcp"), nil
		}
	}
	return nil, failure(virterr.OperationInvalid, "couldn't update dhcp %s entry - no suitable <ip> element found in network '%s'", s.element, d.name)
}

func orUnknown(s string) string { return cmp.Or(s, "unknown") }

// given reports whether every attribute of b that is among names equals a's.
func given(a, b *xmltree.Node, fold bool, names ...string) bool {
	for _, name := range names {
		want, ok := b.LookupAttr(name)
		if ok && want != a.Attr(name) && !(fold && strings.EqualFold(want, a.Attr(name))) {
			return false
		}
	}
	return true
}

// shares reports whether a and b have the same value in one of the attributes.
func shares(a, b *xmltree.Node, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		v := b.Attr(name)
		return v != "" && strings.EqualFold(v, a.Attr(name))
	})
}

func invalid(format string, args ...any) error {
	return failure(virterr.OperationInvalid, format, args...)
}

var sections = map[Section]section{
	SectionDHCPHost: {
		element: "host", parent: "dhcp", kind: "dhcp host entries", modify: true,
		same:  func(a, b *xmltree.Node) bool { return given(a, b, true, "mac", "name", "ip", "id") },
		clash: func(a, b *xmltree.Node) bool { return shares(a, b, "mac", "name", "ip", "id") },
		exists: func(d *definition, i *xmltree.Node) error {
			return invalid("there is an existing dhcp host entry in network '%s' that matches \"<host mac='%s' name='%s' ip='%s'/>\"",
				d.name, orUnknown(i.Attr("mac")), orUnknown(i.Attr("name")), orUnknown(i.Attr("ip")))
		},
		missing: func(d *definition, _ *xmltree.Node) error {
			return invalid("couldn't locate a matching dhcp host entry in network '%s'", d.name)
		},
	},
	SectionDHCPRange: {
		element: "range", parent: "dhcp", kind: "dhcp ranges",
		same:  func(a, b *xmltree.Node) bool { return given(a, b, false, "start", "end") },
		clash: func(a, b *xmltree.Node) bool { return given(a, b, false, "start", "end") },
		exists: func(d *definition, i *xmltree.Node) error {
			return invalid("there is an existing dhcp range entry in network '%s' that matches \"<range start='%s' end='%s'/>\"", d.name, i.Attr("start"), i.Attr("end"))
		},
		missing: func(d *definition, _ *xmltree.Node) error {
			return invalid("couldn't locate a matching dhcp range entry in network '%s'", d.name)
		},
	},
	SectionPortGroup: {
		element: "portgroup", kind: "portgroups", modify: true,
		same:  func(a, b *xmltree.Node) bool { return given(a, b, false, "name") },
		clash: func(a, b *xmltree.Node) bool { return shares(a, b, "name") },
		exists: func(d *definition, i *xmltree.Node) error {
			return invalid("there is an existing portgroup entry in network '%s' that matches \"<portgroup name='%s'>\"", d.name, i.Attr("name"))
		},
		missing: func(d *definition, i *xmltree.Node) error {
			return invalid("couldn't find a portgroup entry in network '%s' matching <portgroup name='%s'>", d.name, i.Attr("name"))
		},
	},
	SectionDNSHost: {
		element: "host", parent: "dns", kind: "DNS HOST records",
		same: func(a, b *xmltree.Node) bool {
			return given(a, b, false, "ip") && (len(b.All("hostname")) == 0 || sharesName(a, b))
		},
		clash: func(a, b *xmltree.Node) bool { return shares(a, b, "ip") || sharesName(a, b) },
		exists: func(d *definition, _ *xmltree.Node) error {
			return invalid("there is already at least one DNS HOST record with a matching field in network %s", d.name)
		},
		missing: func(d *definition, _ *xmltree.Node) error {
			return invalid("couldn't locate a matching DNS HOST record in network %s", d.name)
		},
	},
	SectionDNSTXT: {
		element: "txt", parent: "dns", kind: "DNS TXT records",
		same:  func(a, b *xmltree.Node) bool { return given(a, b, false, "name", "value") },
		clash: func(a, b *xmltree.Node) bool { return shares(a, b, "name") },
		exists: func(d *definition, i *xmltree.Node) error {
			return invalid("there is already a DNS TXT record with name '%s' in network %s", i.Attr("name"), d.name)
		},
		missing: func(d *definition, _ *xmltree.Node) error {
			return invalid("couldn't locate a matching DNS TXT record in network %s", d.name)
		},
	},
	SectionDNSSRV: {
		element: "srv", parent: "dns", kind: "DNS SRV records",
		same:  func(a, b *xmltree.Node) bool { return given(a, b, false, words["srv"].attrs...) },
		clash: func(a, b *xmltree.Node) bool { return given(a, b, false, words["srv"].attrs...) },
		exists: func(d *definition, _ *xmltree.Node) error {
			return invalid("there is already at least one DNS SRV record matching all specified fields in network %s", d.name)
		},
		missing: func(d *definition, _ *xmltree.Node) error {
			return invalid("couldn't locate a matching DNS SRV record in network %s", d.name)
		},
	},
}

// sharesName reports whether two DNS hosts have a name in common.
func sharesName(a, b *xmltree.Node) bool {
	for _, x := range a.All("hostname") {
		for _, y := range b.All("hostname") {
			if strings.EqualFold(x.Trimmed(), y.Trimmed()) {
				return true
			}
		}
	}
	return false
}
