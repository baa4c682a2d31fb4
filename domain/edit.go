package domain

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// SetMemory returns the definition with <currentMemory>, the balloon's target, of that many KiB. It fails with
// InvalidArg above the maximum.
func (d *Definition) SetMemory(kib uint64) (*Definition, error) {
	if kib > d.memory {
		return nil, virterr.New(virterr.InvalidArg, "cannot set memory of %q to %d KiB, higher than its maximum of %d KiB",
			d.name, kib, d.memory)
	}
	if kib == 0 {
		return nil, virterr.New(virterr.InvalidArg, "cannot set memory of %q to 0", d.name)
	}
	return d.edit(func(root *xmltree.Node) error {
		setSize(root.Ensure("currentMemory"), kib)
		return nil
	})
}

// SetMaxMemory returns the definition with <memory> of that many KiB; <currentMemory> shrinks with it if it must.
func (d *Definition) SetMaxMemory(kib uint64) (*Definition, error) {
	if kib == 0 {
		return nil, virterr.New(virterr.InvalidArg, "cannot set maximum memory of %q to 0", d.name)
	}
	return d.edit(func(root *xmltree.Node) error {
		setSize(root.Ensure("memory"), kib)
		if d.curMem > kib {
			setSize(root.Ensure("currentMemory"), kib)
		}
		return nil
	})
}

// Rename returns the definition under another name.
func (d *Definition) Rename(name string) (*Definition, error) {
	if strings.ContainsRune(name, '/') {
		return nil, virterr.NewFrom(virterr.FromDomain, virterr.XMLError, "name %s cannot contain '/'", name)
	}
	return d.edit(func(root *xmltree.Node) error {
		root.Ensure("name").SetContent(name)
		return nil
	})
}

func setSize(n *xmltree.Node, kib uint64) {
	n.SetAttr("unit", "KiB")
	n.SetContent(strconv.FormatUint(kib, 10))
}

// balloonEdit changes the virtio memory balloon, which must exist.
func (d *Definition) balloonEdit(f func(balloon *xmltree.Node)) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		b := root.Child("devices", "memballoon")
		if b == nil || b.Attr("model") == "none" {
			return virterr.New(virterr.OperationInvalid, "domain %q has no memory balloon; add <memballoon model='virtio'/>", d.name)
		}
		f(b)
		return nil
	})
}

// SetMemoryStatsPeriod returns the definition whose balloon asks the guest for statistics every so many seconds; 0 means
// only when somebody asks.
func (d *Definition) SetMemoryStatsPeriod(seconds int) (*Definition, error) {
	return d.balloonEdit(func(b *xmltree.Node) {
		if seconds <= 0 {
			b.RemoveAll("stats")
			return
		}
		b.Ensure("stats").SetAttr("period", strconv.Itoa(seconds))
	})
}

// SetAutodeflate returns the definition whose balloon gives memory back (or not) when the guest runs out.
func (d *Definition) SetAutodeflate(on bool) (*Definition, error) {
	return d.balloonEdit(func(b *xmltree.Node) { b.SetAttr("autodeflate", onOff(on)) })
}

// SetFreePageReporting returns the definition whose guest reports (or does not) pages it does not use.
func (d *Definition) SetFreePageReporting(on bool) (*Definition, error) {
	return d.balloonEdit(func(b *xmltree.Node) { b.SetAttr("freePageReporting", onOff(on)) })
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// SetName returns the definition under another name.
func (d *Definition) SetName(name string) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		root.Ensure("name").SetContent(name)
		return nil
	})
}

// SetTitle returns the definition with that title; "" removes it.
func (d *Definition) SetTitle(title string) (*Definition, error) { return d.setText("title", title) }

// SetDescription returns the definition with that description; "" removes it.
func (d *Definition) SetDescription(text string) (*Definition, error) {
	return d.setText("description", text)
}

func (d *Definition) setText(element, text string) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		if text == "" {
			root.RemoveAll(element)
			return nil
		}
		root.Ensure(element).SetContent(text)
		return nil
	})
}

// Metadata returns the element of <metadata> in that namespace, as text, without that namespace, as libvirt's clients
// expect it. NoDomainMetadata if there is none.
func (d *Definition) Metadata(uri string) (string, error) {
	n := d.metadata(d.doc.Root, uri)
	if n == nil {
		return "", virterr.New(virterr.NoDomainMetadata, "Requested metadata element is not present")
	}
	c := selfContained(n)
	plain := c.Clone()
	dropNamespace(c, plain, uri)
	return strings.TrimSuffix(plain.Foreign(), "\n"), nil
}

// dropNamespace takes the elements of a namespace out of it in plain, a copy of n; n itself says what prefixes mean.
func dropNamespace(n, plain *xmltree.Node, uri string) {
	if n.Kind != xmltree.Element {
		return
	}
	if got, _ := n.Namespace(n.Name.Prefix); got == uri {
		plain.Name.Prefix = ""
	}
	plain.Attrs = slices.DeleteFunc(plain.Attrs, func(a xmltree.Attr) bool {
		declares := a.Name.Prefix == "xmlns" || a.Name == (xmltree.Name{Local: "xmlns"})
		return declares && a.Value == uri && !anyAttr(n, a.Name.Local)
	})
	for i := range n.Children {
		dropNamespace(n.Children[i], plain.Children[i], uri)
	}
}

// anyAttr reports whether an attribute in or below n has that prefix; its declaration must stay then.
func anyAttr(n *xmltree.Node, prefix string) bool {
	found := false
	_ = n.Walk(func(e *xmltree.Node) error {
		for _, a := range e.Attrs {
			found = found || a.Name.Prefix == prefix && prefix != "xmlns"
		}
		return nil
	})
	return found
}

// metadata finds the child of <metadata> whose namespace is uri.
func (d *Definition) metadata(root *xmltree.Node, uri string) *xmltree.Node {
	md := root.Child("metadata")
	if md == nil {
		return nil
	}
	for _, c := range md.Elements() {
		if got, _ := c.Namespace(c.Name.Prefix); got == uri {
			return c
		}
	}
	return nil
}

// selfContained returns a copy of n that declares every prefix it takes from outside.
func selfContained(n *xmltree.Node) *xmltree.Node {
	c := n.Clone()
	declare := func(prefix string) {
		if _, inside := c.Namespace(prefix); inside && prefix != "" {
			return
		}
		uri, ok := n.Namespace(prefix)
		if !ok || uri == "" || prefix == "xml" {
			return
		}
		name := xmltree.Name{Prefix: "xmlns", Local: prefix}
		if prefix == "" {
			name = xmltree.Name{Local: "xmlns"}
			if _, has := c.LookupAttr("xmlns"); has {
				return
			}
		}
		c.Attrs = append(c.Attrs, xmltree.Attr{Name: name, Value: uri})
	}
	_ = n.Walk(func(e *xmltree.Node) error {
		if e.Kind != xmltree.Element {
			return nil
		}
		declare(e.Name.Prefix)
		for _, a := range e.Attrs {
			if a.Name.Prefix != "" && a.Name.Prefix != "xmlns" {
				declare(a.Name.Prefix)
			}
		}
		return nil
	})
	return c
}

// ncName is a name without prefix (Namespaces in XML 1.0), as far as keys of metadata need it.
var ncName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// SetMetadata returns the definition in which <metadata> holds this element for the namespace uri, under the prefix key,
// in place of an older one. Elements of text without namespace get that one. An empty text removes what is there.
func (d *Definition) SetMetadata(text, key, uri string) (*Definition, error) {
	if uri == "" {
		return nil, virterr.New(virterr.InvalidArg, "metadata of '%s' needs a namespace URI", d.name)
	}
	var element *xmltree.Node
	if text != "" {
		if !ncName.MatchString(key) || key == "xmlns" || key == "xml" {
			return nil, virterr.New(virterr.InvalidArg, "metadata of '%s' needs a key that is an XML prefix, not '%s'", d.name, key)
		}
		doc, err := xmltree.Parse([]byte(text))
		if err != nil {
			return nil, err
		}
		element = doc.Root
		putInNamespace(element, key, uri)
	}
	return d.edit(func(root *xmltree.Node) error {
		if old := d.metadata(root, uri); old != nil {
			old.Remove()
		}
		if element != nil {
			root.Ensure("metadata").Append(element)
		} else if md := root.Child("metadata"); md != nil && len(md.Children) == 0 {
			md.Remove()
		}
		return nil
	})
}

// SetLinkState returns the definition in which the interface with that MAC address is plugged in or not.
func (d *Definition) SetLinkState(mac string, up bool) (*Definition, error) {
	want, err := parseMAC(mac)
	if err != nil {
		return nil, virterr.New(virterr.InvalidArg, "unable to parse mac address '%s'", mac)
	}
	return d.edit(func(root *xmltree.Node) error {
		for _, nic := range root.Child("devices").All("interface") {
			if nic.Child("mac").Attr("address") == want.String() {
				state := "down"
				if up {
					state = "up"
				}
				nic.Ensure("link").SetAttr("state", state)
				return nil
			}
		}
		return virterr.New(virterr.DeviceMissing, "no interface with MAC address %s in domain '%s'", want, d.name)
	})
}

// SetVCPUPin returns the definition whose vCPU is bound to those host CPUs (see ParseCPUSet); "" removes the binding.
func (d *Definition) SetVCPUPin(vcpu int, cpus string) (*Definition, error) {
	if vcpu < 0 || vcpu >= d.VCPUs() {
		return nil, virterr.New(virterr.InvalidArg, "vcpu %d is out of range of live cpu count %d", vcpu, d.VCPUs())
	}
	return d.edit(func(root *xmltree.Node) error {
		number := strconv.Itoa(vcpu)
		tune := root.Ensure("cputune")
		for _, pin := range tune.All("vcpupin") {
			if pin.Attr("vcpu") == number {
				pin.Remove()
			}
		}
		if cpus != "" {
			tune.Append(xmltree.New("vcpupin", "vcpu", number, "cpuset", cpus))
		} else if len(tune.Children) == 0 {
			tune.Remove()
		}
		return nil
	})
}

// EmulatorPin returns the host CPUs that all threads but the vCPUs' are bound to, as written: its <emulatorpin>, else <vcpu
// cpuset=>; "" if there is neither.
func (d *Definition) EmulatorPin() string {
	root := d.doc.Root
	if set := root.Child("cputune", "emulatorpin").Attr("cpuset"); set != "" {
		return set
	}
	return root.Child("vcpu").Attr("cpuset")
}

// SetEmulatorPin returns the definition with other host CPUs for these threads; "" takes them away.
func (d *Definition) SetEmulatorPin(cpus string) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		tune := root.Ensure("cputune")
		tune.RemoveAll("emulatorpin")
		if cpus != "" {
			tune.Append(xmltree.New("emulatorpin", "cpuset", cpus))
		} else if len(tune.Children) == 0 {
			tune.Remove()
		}
		return nil
	})
}

// putInNamespace gives root, and every element below it that has no namespace, the namespace uri under the prefix key.
func putInNamespace(root *xmltree.Node, key, uri string) {
	plain := []*xmltree.Node{root}
	_ = root.Walk(func(e *xmltree.Node) error {
		if got, _ := e.Namespace(e.Name.Prefix); e != root && e.Kind == xmltree.Element && got == "" {
			plain = append(plain, e)
		}
		return nil
	})
	for _, e := range plain {
		e.Name.Prefix = key
	}
	declaration := xmltree.Name{Prefix: "xmlns", Local: key}
	root.Attrs = slices.DeleteFunc(root.Attrs, func(a xmltree.Attr) bool { return a.Name == declaration })
	root.Attrs = append([]xmltree.Attr{{Name: declaration, Value: uri}}, root.Attrs...)
}
