package domain

import (
	"strconv"
	"strings"

	"virtd/domain/xmltree"
)

// CPUModel is a named CPU and the features in which a CPU differs from it.
type CPUModel struct {
	Name     string
	Vendor   string       // libvirt's names: Intel, AMD
	Features []CPUFeature // sorted by name
}

// CPUFeature is a <feature> of <cpu>: libvirt's name and policy (require or disable in a host model).
type CPUFeature struct {
	Name   string
	Policy string
}

// HostCPU is what starting a domain asks about the host's processors.
type HostCPU interface {
	// HostModel returns the named model closest to the host's CPU, with the features to add or remove.
	HostModel() (CPUModel, error)
}

// Runtime is what the host gave a running domain, by device alias.
type Runtime struct {
	Taps       map[string]string // net0: name of its tap
	NetDrivers map[string]string // net0: qemu or vhost, whichever is in use
	TTYs       map[string]string // serial0: /dev/pts/4
	Sources    map[string]string // serial1: path of a unix socket that we chose
	// Chains are the images below a disk's own, the nearest first. A disk that is not named stays as it is.
	Chains map[string][]BackingImage `json:",omitempty"`
	// NetBackends are the programs behind interfaces of type user that a document can name: passt. NetAddresses are the
	// addresses, with the lengths of their subnets, that the guest has there.
	NetBackends  map[string]string   `json:",omitempty"`
	NetAddresses map[string][]string `json:",omitempty"`
}

// Start returns the definition of the domain as it is about to run: with its id, aliases, and host-model expanded by
// host, which is asked only then.
func (d *Definition) Start(id int, host HostCPU) (*Definition, error) {
	doc := d.doc.Clone()
	if cpu := doc.Root.Child("cpu"); cpu.Attr("mode") == "host-model" {
		model, err := host.HostModel()
		if err != nil {
			return nil, err
		}
		expandHostModel(cpu, model)
	}
	doc.Root.SetAttr("id", strconv.Itoa(id))
	opts := d.opts
	opts.Live, opts.Stored, opts.Validate = true, true, false
	live, err := build(doc, opts)
	if err == nil && !d.opts.Live { // one that ran before keeps the layout that its guest knows
		live, err = live.addSparePorts()
	}
	if err != nil {
		return nil, err
	}
	return live.edit(func(root *xmltree.Node) error {
		assignAliases(root)
		nameHostdevDrivers(root)
		return nil
	})
}

// expandHostModel turns host-model into the custom model that it stands for here. The user's own features win.
func expandHostModel(cpu *xmltree.Node, model CPUModel) {
	cpu.SetAttr("mode", "custom")
	cpu.SetAttr("match", "exact")
	cpu.SetAttr("check", "partial")
	cpu.RemoveAttr("migratable")
	cpu.RemoveAll("model")
	cpu.Append(xmltree.NewText("model", model.Name, "fallback", "forbid"))
	if model.Vendor != "" && cpu.Child("vendor") == nil {
		cpu.Append(xmltree.NewText("vendor", model.Vendor))
	}
	own := map[string]bool{}
	for _, f := range cpu.All("feature") {
		own[f.Attr("name")] = true
	}
	for _, f := range model.Features {
		if !own[f.Name] {
			cpu.Append(xmltree.New("feature", "policy", f.Policy, "name", f.Name))
		}
	}
}

// SetRuntime returns the live definition with what the host gave it.
func (d *Definition) SetRuntime(r Runtime) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		setChains(root.Child("devices"), r.Chains)
		for _, dev := range root.Child("devices").Elements() {
			alias := dev.Child("alias").Attr("name")
			link := dev.Is("interface") && dev.Attr("type") != typeHostdev
			if tap := r.Taps[alias]; tap != "" && link {
				dev.Ensure("target").SetAttr("dev", tap)
			}
			if backend := r.NetBackends[alias]; backend != "" && link {
				dev.Ensure("backend").SetAttr("type", backend)
			}
			if driver := r.NetDrivers[alias]; driver != "" && link {
				dev.Ensure("driver").SetAttr("name", driver)
			}
			if tty := r.TTYs[alias]; tty != "" {
				if dev.Is("console") {
					dev.SetAttr("tty", tty)
				}
				dev.Ensure("source").SetAttr("path", tty)
			}
			if path := r.Sources[alias]; path != "" {
				dev.Ensure("source").SetAttr("path", path)
			}
		}
		return nil
	})
}

// Record returns the document with all that is known of the running domain, also what XML does not tell, for Parse with
// Options.Live and Options.Stored.
func (d *Definition) Record() string { return d.doc.String() }

// XML prints the definition.
func (d *Definition) XML(flags XMLFlags) string {
	live := d.opts.Live && flags&(XMLInactive|XMLMigratable) == 0
	if !d.opts.Live && flags&XMLSecure != 0 {
		return d.doc.String()
	}
	doc := d.doc.Clone()
	if live {
		hidePorts(doc.Root)
	} else {
		stripLive(doc.Root)
	}
	for _, disk := range doc.Root.Child("devices").All("disk") {
		stripVolume(disk)
	}
	if flags&XMLSecure == 0 {
		stripSecrets(doc.Root)
	}
	return doc.String()
}

// stripLive removes what only a running domain has. In XML that comes from a user a tap name or path may
// be a wish; only the names that hosts generate are removed then, as libvirt does.
func stripLive(root *xmltree.Node) {
	stripRun(root)
	for _, dev := range root.Child("devices").Elements() {
		for _, alias := range dev.All("alias") {
			if !strings.HasPrefix(alias.Attr("name"), "ua-") {
				alias.Remove()
			}
		}
	}
}

// stripRun removes what one run of the domain got from its host, and keeps what the guest knows its devices by.
func stripRun(root *xmltree.Node) {
	root.RemoveAttr("id")
	for _, dev := range root.Child("devices").Elements() {
		switch {
		case dev.Is("disk"):
			stripChain(dev)
			stripVolume(dev)
		case dev.Is("interface"):
			stripPort(dev)
			if target := dev.Child("target"); target != nil && generatedTap(target.Attr("dev")) {
				if target.RemoveAttr("dev"); len(target.Attrs) == 0 {
					target.Remove()
				}
			}
		case dev.Is("serial"), dev.Is("console"), dev.Is("channel"), dev.Is("parallel"):
			dev.RemoveAttr("tty")
			if t := dev.Attr("type"); t == "pty" || t == "" {
				dev.RemoveAll("source")
			}
		}
	}
}

// generatedTap reports whether a tap name is one that this or another host made up.
func generatedTap(name string) bool {
	for _, prefix := range []string{"vnet", "vif", "macvtap", "macvlan"} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if _, err := strconv.ParseUint(rest, 10, 32); err == nil {
			return true
		}
	}
	return false
}

// stripSecrets removes passwords.
func stripSecrets(root *xmltree.Node) {
	for _, g := range root.Child("devices").All("graphics") {
		g.RemoveAttr("passwd")
	}
}
