package daemon

import (
	"context"
	"maps"
	"slices"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/xmltree"
	"virtd/rpc"
	"virtd/virterr"
)

// registerCPUs compares descriptions of processors. There is one driver and it gives guests what KVM offers, so the host's
// processor and the hypervisor's are the same here.
func (d *Daemon) registerCPUs(reg *rpc.Registry) {
	on(reg, rpc.ProcConnectCompareCPU, d.connectCompareCPU)
	on(reg, rpc.ProcConnectCompareHypervisorCPU, d.connectCompareHypervisorCPU)
	on(reg, rpc.ProcConnectBaselineCPU, d.connectBaselineCPU)
	on(reg, rpc.ProcConnectBaselineHypervisorCPU, d.connectBaselineHypervisorCPU)
}

// Results of a comparison (virCPUCompareResult).
const (
	cpuIncompatible = 0
	cpuIdentical    = 1
	cpuSuperset     = 2 // the host has more
)

// cpuDescription is a processor as a set of features.
type cpuDescription struct {
	model    string
	vendor   string // "" for any
	features map[string]bool
}

// cpuTable is what descriptions are read and written with.
type cpuTable struct {
	models []CPUChoice
	host   cpuDescription
}

// cpuTable asks the driver. NoSupport where the host's processor is not known.
func (d *Daemon) cpuTable(api string) (*cpuTable, error) {
	host := d.hostModel()
	if host == nil {
		return nil, virterr.New(virterr.NoSupport, "%s", api)
	}
	t := &cpuTable{models: d.cpuModels()}
	t.host = cpuDescription{model: host.Name, vendor: host.Vendor, features: t.featuresOf(host.Name)}
	for _, f := range host.Features {
		if f.Policy == "disable" || f.Policy == "forbid" {
			delete(t.host.features, f.Name)
		} else {
			t.host.features[f.Name] = true
		}
	}
	return t, nil
}

func (t *cpuTable) find(name string) *CPUChoice {
	i := slices.IndexFunc(t.models, func(m CPUChoice) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &t.models[i]
}

func (t *cpuTable) featuresOf(name string) map[string]bool {
	set := map[string]bool{}
	if m := t.find(name); m != nil {
		for _, f := range m.Features {
			set[f] = true
		}
	}
	return set
}

// read understands a <cpu> element, of a domain or of capabilities.
func (t *cpuTable) read(text string) (cpuDescription, error) {
	var out cpuDescription
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return out, err
	}
	root := doc.Root
	if !root.Is("cpu") {
		return out, virterr.NewFrom(virterr.FromCPU, virterr.XMLError, "unexpected root element <%s>, expecting <cpu>", root.Name)
	}
	if arch := root.Child("arch"); arch != nil && arch.Trimmed() != "x86_64" {
		return out, virterr.NewFrom(virterr.FromCPU, virterr.ConfigUnsupported, "CPU architecture '%s' is not supported: this host is x86_64", arch.Trimmed())
	}
	if mode := root.Attr("mode"); mode == "host-passthrough" || mode == "host-model" || mode == "maximum" {
		return t.host, nil
	}
	out.model = root.Child("model").Trimmed()
	if out.model == "" {
		return out, virterr.NewFrom(virterr.FromCPU, virterr.XMLError, "Missing CPU model name")
	}
	model := t.find(out.model)
	if model == nil {
		return out, virterr.NewFrom(virterr.FromCPU, virterr.InternalError, "Unknown CPU model %s", out.model)
	}
	out.vendor, out.features = root.Child("vendor").Trimmed(), t.featuresOf(out.model)
	if out.vendor == "" {
		out.vendor = model.Vendor
	}
	for _, f := range root.All("feature") {
		switch name := f.Attr("name"); f.Attr("policy") {
		case "disable", "forbid":
			delete(out.features, name)
		case "optional": // as well without
		default:
			out.features[name] = true
		}
	}
	return out, nil
}

// compare tells how the host's processor relates to another, and what it lacks.
func (t *cpuTable) compare(other cpuDescription) (result int32, missing []string) {
	if other.vendor != "" && t.host.vendor != "" && other.vendor != t.host.vendor {
		return cpuIncompatible, []string{"vendor " + other.vendor}
	}
	for name := range other.features {
		if !t.host.features[name] {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0:
		slices.Sort(missing)
		return cpuIncompatible, missing
	case len(other.features) == len(t.host.features):
		return cpuIdentical, nil
	}
	return cpuSuperset, nil
}

// baseline is the richest processor that all of those given are at least.
func (t *cpuTable) baseline(cpus []cpuDescription) cpuDescription {
	common := cpuDescription{vendor: cpus[0].vendor, features: maps.Clone(cpus[0].features)}
	for _, c := range cpus[1:] {
		if c.vendor != common.vendor {
			common.vendor = ""
		}
		maps.DeleteFunc(common.features, func(name string, _ bool) bool { return !c.features[name] })
	}
	best := -1
	for _, m := range t.models {
		if m.Vendor != "" && m.Vendor != common.vendor {
			continue
		}
		cost := len(common.features)
		for _, f := range m.Features {
			if common.features[f] {
				cost--
			} else {
				cost += 2 // a model that has more than there is misnames it
			}
		}
		if best < 0 || cost <= best {
			best, common.model = cost, m.Name
		}
	}
	return common
}

// element writes a description: the model and how it differs, or with expand every feature.
func (t *cpuTable) element(c cpuDescription, expand bool) *xmltree.Node {
	cpu := xmltree.New("cpu", "mode", "custom", "match", "exact")
	cpu.Append(xmltree.NewText("model", c.model, "fallback", "forbid"))
	if c.vendor != "" {
		cpu.Append(xmltree.NewText("vendor", c.vendor))
	}
	own := t.featuresOf(c.model)
	names := slices.Sorted(maps.Keys(c.features))
	for _, name := range names {
		if expand || !own[name] {
			cpu.Append(xmltree.New("feature", "policy", "require", "name", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if !c.features[name] {
			cpu.Append(xmltree.New("feature", "policy", "disable", "name", name))
		}
	}
	return cpu
}

// Flags of the comparisons (virConnectCompareCPUFlags) and baselines (virConnectBaselineCPUFlags).
const (
	compareFailIncompatible = 1
	compareValidate         = 2
	baselineExpand          = 1
	baselineMigratable      = 2 // all that is compared here is
	baselineIgnoreHost      = 4
)

func (d *Daemon) connectCompareCPU(_ context.Context, _ *rpc.Call, a *libvirt.ConnectCompareCPUArgs) (*libvirt.ConnectCompareCPURet, error) {
	result, err := d.compareCPU(a.XML, uint32(a.Flags), "virConnectCompareCPU")
	return &libvirt.ConnectCompareCPURet{Result: result}, err
}

func (d *Daemon) connectCompareHypervisorCPU(_ context.Context, _ *rpc.Call, a *libvirt.ConnectCompareHypervisorCPUArgs) (*libvirt.ConnectCompareHypervisorCPURet, error) {
	if err := d.checkHypervisor(optional(a.Arch), optional(a.Virttype)); err != nil {
		return nil, err
	}
	result, err := d.compareCPU(a.XMLCPU, a.Flags, "virConnectCompareHypervisorCPU")
	return &libvirt.ConnectCompareHypervisorCPURet{Result: result}, err
}

func (d *Daemon) compareCPU(text string, flags uint32, api string) (int32, error) {
	if err := onlyFlags(flags, compareFailIncompatible|compareValidate, api); err != nil {
		return 0, err
	}
	t, err := d.cpuTable(api)
	if err != nil {
		return 0, err
	}
	other, err := t.read(text)
	if err != nil {
		return 0, err
	}
	result, missing := t.compare(other)
	if result == cpuIncompatible && flags&compareFailIncompatible != 0 {
		return 0, virterr.NewFrom(virterr.FromCPU, virterr.CPUIncompatible, "Host CPU does not provide required features: %s", strings.Join(missing, ", "))
	}
	return result, nil
}

func (d *Daemon) connectBaselineCPU(_ context.Context, _ *rpc.Call, a *libvirt.ConnectBaselineCPUArgs) (*libvirt.ConnectBaselineCPURet, error) {
	text, err := d.baselineCPU(a.XMLCPUs, uint32(a.Flags), false, "virConnectBaselineCPU")
	return &libvirt.ConnectBaselineCPURet{CPU: text}, err
}

func (d *Daemon) connectBaselineHypervisorCPU(_ context.Context, _ *rpc.Call, a *libvirt.ConnectBaselineHypervisorCPUArgs) (*libvirt.ConnectBaselineHypervisorCPURet, error) {
	if err := d.checkHypervisor(optional(a.Arch), optional(a.Virttype)); err != nil {
		return nil, err
	}
	text, err := d.baselineCPU(a.XMLCPUs, a.Flags, a.Flags&baselineIgnoreHost == 0, "virConnectBaselineHypervisorCPU")
	return &libvirt.ConnectBaselineHypervisorCPURet{CPU: text}, err
}

func (d *Daemon) baselineCPU(texts []string, flags uint32, withHost bool, api string) (string, error) {
	if err := onlyFlags(flags, baselineExpand|baselineMigratable|baselineIgnoreHost, api); err != nil {
		return "", err
	}
	t, err := d.cpuTable(api)
	if err != nil {
		return "", err
	}
	if len(texts) == 0 {
		return "", virterr.New(virterr.InvalidArg, "No CPUs given")
	}
	var cpus []cpuDescription
	for _, text := range texts {
		c, err := t.read(text)
		if err != nil {
			return "", err
		}
		cpus = append(cpus, c)
	}
	if withHost {
		cpus = append(cpus, t.host)
	}
	return t.element(t.baseline(cpus), flags&baselineExpand != 0).String(), nil
}

// checkHypervisor refuses to speak for machines that this host does not run.
func (d *Daemon) checkHypervisor(arch, virttype string) error {
	if arch != "" && arch != "x86_64" {
		return virterr.New(virterr.InvalidArg, "unable to find any emulator to serve '%s' architecture", arch)
	}
	if virttype != "" && virttype != "kvm" {
		return virterr.New(virterr.InvalidArg, "domain type '%s' is not available: this host runs kvm domains", virttype)
	}
	return nil
}
