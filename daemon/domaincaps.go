package daemon

import (
	"context"
	"strconv"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/rpc"
	"virtd/virterr"
)

// connectGetDomainCapabilities tells what a domain of one machine type can have. Everything may be left out.
func (d *Daemon) connectGetDomainCapabilities(_ context.Context, _ *rpc.Call, a *libvirt.ConnectGetDomainCapabilitiesArgs) (*libvirt.ConnectGetDomainCapabilitiesRet, error) {
	const known = 1 // DISABLE_DEPRECATED_FEATURES: nothing here is deprecated
	if err := onlyFlags(uint32(a.Flags), known, "virConnectGetDomainCapabilities"); err != nil {
		return nil, err
	}
	if arch := optional(a.Arch); arch != "" && arch != "x86_64" {
		return nil, virterr.New(virterr.InvalidArg, "unable to find any emulator to serve '%s' architecture", arch)
	}
	if t := optional(a.Virttype); t != "" && t != "kvm" {
		return nil, virterr.New(virterr.InvalidArg, "domain type '%s' is not available: this host runs kvm domains", t)
	}
	machine := domain.MachineQ35
	if m := optional(a.Machine); m != "" {
		canonical, ok := domain.CanonicalMachine(m)
		if !ok {
			return nil, virterr.New(virterr.InvalidArg, "the machine '%s' is not supported by emulator '%s'; it has q35 and pc", m, d.cfg.Emulator)
		}
		machine = canonical
	}
	// A foreign emulator is accepted here as it is in a definition: the answer is about ours.
	return &libvirt.ConnectGetDomainCapabilitiesRet{Capabilities: d.domainCapabilities(machine).String()}, nil
}

// domainCapabilities is in the order that libvirt's schema wants, and has nothing that the schema of 9.0 does not know.
func (d *Daemon) domainCapabilities(machine string) *xmltree.Node {
	root := xmltree.New("domainCapabilities")
	root.Append(xmltree.NewText("path", d.cfg.Emulator))
	root.Append(xmltree.NewText("domain", "kvm"))
	root.Append(xmltree.NewText("machine", machine))
	root.Append(xmltree.NewText("arch", "x86_64"))
	root.Append(xmltree.New("vcpu", "max", strconv.Itoa(domain.MaxVCPUs)))
	root.Append(supported("iothreads", false))
	os := root.Append(supported("os", true))
	os.Append(enum("firmware")) // a kernel is loaded directly; no firmware yet
	os.Append(supported("loader", false))
	root.Append(d.cpuModes())
	root.Append(supported("memoryBacking", true)).Append(enum("sourceType", "file", "anonymous", "memfd"))
	root.Append(deviceCapabilities(d.cfg.Hostdevs != nil))
	root.Append(featureCapabilities())
	return root
}

func (d *Daemon) cpuModes() *xmltree.Node {
	cpu := xmltree.New("cpu")
	mode := func(name string, ok bool) *xmltree.Node {
		return cpu.Append(xmltree.New("mode", "name", name, "supported", yesno(ok)))
	}
	mode("host-passthrough", true).Append(enum("hostPassthroughMigratable", "on", "off"))
	mode("maximum", true).Append(enum("maximumMigratable", "on", "off"))
	model := d.hostModel()
	host := mode("host-model", model != nil)
	if model != nil {
		host.Append(xmltree.NewText("model", model.Name, "fallback", "forbid"))
		if model.Vendor != "" {
			host.Append(xmltree.NewText("vendor", model.Vendor))
		}
		for _, f := range model.Features {
			policy := f.Policy
			if policy == "" {
				policy = "require"
			}
			host.Append(xmltree.New("feature", "policy", policy, "name", f.Name))
		}
	}
	custom := mode("custom", true)
	for _, m := range d.cpuModels() {
		vendor := m.Vendor
		if vendor == "" {
			vendor = "unknown"
		}
		custom.Append(xmltree.NewText("model", m.Name, "usable", yesno(m.Usable), "vendor", vendor))
	}
	return cpu
}

// CPUChoice is a CPU model that a domain can ask for by name.
type CPUChoice struct {
	Name   string
	Vendor string // libvirt's word, empty for models of no vendor
	Usable bool   // this host can provide it exactly
	// Features are libvirt's names of what a processor must have to be this model.
	Features []string
}

// CPULister is what a Config.CPU also implements when it knows models besides the host's.
type CPULister interface {
	CPUModels() ([]CPUChoice, error)
}

// cpuModels are all that custom mode accepts. Without a lister it is the default model.
func (d *Daemon) cpuModels() []CPUChoice {
	if lister, ok := d.cfg.CPU.(CPULister); ok {
		list, err := lister.CPUModels()
		if err == nil {
			return list
		}
		d.log.Warn("cannot tell which CPU models this host can provide", "error", err)
	}
	return []CPUChoice{{Name: domain.DefaultCPUModel, Usable: true}}
}

// connectGetCPUModelNames lists the models by name. An architecture without any is an empty list, not an error.
func (d *Daemon) connectGetCPUModelNames(_ context.Context, _ *rpc.Call, a *libvirt.ConnectGetCPUModelNamesArgs) (*libvirt.ConnectGetCPUModelNamesRet, error) {
	if err := noFlags(a.Flags, "virConnectGetCPUModelNames"); err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectGetCPUModelNamesRet{}
	if a.Arch != "x86_64" {
		return ret, nil
	}
	for _, m := range d.cpuModels() {
		ret.Ret++
		if a.NeedResults != 0 {
			ret.Models = append(ret.Models, m.Name)
		}
	}
	return ret, nil
}

// deviceCapabilities lists the kinds of devices; passthrough says whether the host gives its own away.
func deviceCapabilities(passthrough bool) *xmltree.Node {
	devices := xmltree.New("devices")
	disk := devices.Append(supported("disk", true))
	disk.Append(enum("diskDevice", "disk"))
	disk.Append(enum("bus", "virtio"))
	disk.Append(enum("model", "virtio", "virtio-non-transitional"))
	devices.Append(supported("graphics", false))
	devices.Append(supported("video", false))
	hostdev := devices.Append(supported("hostdev", passthrough))
	if passthrough {
		hostdev.Append(enum("mode", "subsystem"))
		hostdev.Append(enum("subsysType", "pci"))
		hostdev.Append(enum("capsType"))
		hostdev.Append(enum("pciBackend", "vfio"))
		hostdev.Append(enum("iommufd", "yes", "no")) // what a document may say; vctl host-check has what the host has
	}
	rng := devices.Append(supported("rng", true))
	rng.Append(enum("model", "virtio", "virtio-non-transitional"))
	rng.Append(enum("backendModel", "random", "builtin"))
	for _, name := range []string{"filesystem", "tpm", "redirdev", "channel"} {
		devices.Append(supported(name, false))
	}
	return devices
}

func featureCapabilities() *xmltree.Node {
	features := xmltree.New("features")
	for _, name := range []string{"gic", "vmcoreinfo", "genid", "backingStoreInput", "backup", "sev", "sgx"} {
		features.Append(supported(name, false))
	}
	return features
}

func supported(name string, ok bool) *xmltree.Node {
	return xmltree.New(name, "supported", yesno(ok))
}

func enum(name string, values ...string) *xmltree.Node {
	n := xmltree.New("enum", "name", name)
	for _, v := range values {
		n.Append(xmltree.NewText("value", v))
	}
	return n
}

func yesno(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
