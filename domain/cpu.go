package domain

import (
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// readCPU completes <cpu> as libvirt does and checks it.
func (d *Definition) readCPU(root *xmltree.Node) error {
	cpu := root.Child("cpu")
	if cpu == nil {
		cpu = root.Append(xmltree.New("cpu"))
	}
	model := cpu.Child("model")
	if model != nil {
		model.SetContent(model.Trimmed())
	}
	switch cpu.Attr("mode") {
	case "", "custom":
		if err := d.customCPU(cpu, model); err != nil {
			return err
		}
	case "host-model":
		setDefault(cpu, "check", "partial")
	default: // host-passthrough, maximum
		if model != nil && model.Trimmed() != "" && !d.opts.Stored {
			return model.Errorf(virterr.XMLError, "CPU model is not allowed with mode='%s'", cpu.Attr("mode"))
		}
		setDefault(cpu, "check", "none")
		setDefault(cpu, "migratable", "on")
	}
	if id := model.Attr("vendor_id"); id != "" && len(id) != 12 {
		return model.Errorf(virterr.XMLError, "vendor_id must be exactly 12 characters long, not '%s'", id)
	}
	if id := model.Attr("vendor_id"); id != "" && id != "GenuineIntel" && id != "AuthenticAMD" && !d.opts.Stored {
		return model.Errorf(virterr.ConfigUnsupported, "vendor_id '%s' is not supported; use GenuineIntel or AuthenticAMD", id)
	}
	if cache := cpu.Child("cache"); cache != nil && cpu.Attr("mode") != "host-passthrough" && cpu.Attr("mode") != "maximum" && !d.opts.Stored {
		return cache.Errorf(virterr.ConfigUnsupported, "CPU cache mode 'passthrough' can only be used with mode='host-passthrough'")
	}
	if err := d.checkFeatures(cpu); err != nil {
		return err
	}
	if err := d.checkAddressBits(cpu.Child("maxphysaddr")); err != nil {
		return err
	}
	return d.checkTopology(cpu.Child("topology"))
}

// paravirtFeatures are KVM's, by the names that QEMU gives them and that <feature> takes.
var paravirtFeatures = []string{"kvmclock", "kvmclock-stable-bit", "kvm-asyncpf", "kvm-asyncpf-int", "kvm-nopiodelay",
	"kvm-poll-control", "kvm-pv-eoi", "kvm-pv-ipi", "kvm-pv-sched-yield", "kvm-pv-tlb-flush", "kvm-pv-unhalt", "kvm-steal-time"}

// IsParavirtFeature reports whether a <feature> of <cpu> names one of KVM's paravirtual features, which are not CPUID
// features of any processor.
func IsParavirtFeature(name string) bool { return slices.Contains(paravirtFeatures, name) }

func setDefault(n *xmltree.Node, attr, value string) {
	if _, ok := n.LookupAttr(attr); !ok {
		n.SetAttr(attr, value)
	}
}

// customCPU completes a named model, or the default one where none is named.
func (d *Definition) customCPU(cpu, model *xmltree.Node) error {
	cpu.SetAttr("mode", "custom")
	setDefault(cpu, "match", "exact")
	if model == nil || model.Trimmed() == "" {
		if f := cpu.Child("feature"); f != nil && !d.opts.Stored {
			return f.Errorf(virterr.XMLError, "CPU features need a CPU <model>")
		}
		cpu.RemoveAll("model")
		cpu.Append(xmltree.NewText("model", DefaultCPUModel, "fallback", "forbid"))
		for _, name := range defaultFeatures {
			cpu.Append(xmltree.New("feature", "policy", "require", "name", name))
		}
		setDefault(cpu, "check", "none")
		return nil
	}
	setDefault(cpu, "check", "partial")
	setDefault(model, "fallback", "allow")
	return nil
}

func (d *Definition) checkFeatures(cpu *xmltree.Node) error {
	seen := map[string]bool{}
	for _, f := range cpu.All("feature") {
		name := f.Attr("name")
		if name == "" {
			return f.Errorf(virterr.XMLError, "invalid CPU feature without name")
		}
		if seen[name] {
			return f.Errorf(virterr.XMLError, "CPU feature '%s' specified more than once", name)
		}
		seen[name] = true
		setDefault(f, "policy", "require")
		if strings.HasPrefix(name, "kvm") && !IsParavirtFeature(name) && !d.opts.Stored {
			return f.Errorf(virterr.ConfigUnsupported, "paravirtual feature '%s' is not supported; known are %s",
				name, strings.Join(paravirtFeatures, ", "))
		}
	}
	return nil
}

func (d *Definition) checkAddressBits(n *xmltree.Node) error {
	if n == nil || d.opts.Stored {
		return nil
	}
	bits := n.Attr("bits")
	if n.Attr("mode") == "emulate" {
		if v, err := strconv.Atoi(bits); err != nil || v < 32 || v > 52 {
			return n.Errorf(virterr.ConfigUnsupported, "maxphysaddr bits='%s' must be from 32 to 52", bits)
		}
	} else if bits != "" {
		return n.Errorf(virterr.ConfigUnsupported, "maxphysaddr bits only with mode='emulate'")
	}
	return nil
}

func (d *Definition) checkTopology(n *xmltree.Node) error {
	if n == nil {
		return nil
	}
	product := 1
	for _, level := range []string{"sockets", "dies", "clusters", "cores", "threads"} {
		text, ok := n.LookupAttr(level)
		optional := level == "dies" || level == "clusters"
		if !ok && optional {
			if level == "dies" {
				n.SetAttr(level, "1")
			}
			continue
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < 1 {
			return n.Errorf(virterr.XMLError, "CPU topology needs %s of at least 1, not '%s'", level, text)
		}
		if product *= min(v, MaxVCPUs+1); product > 1<<20 {
			break
		}
	}
	if product != d.VCPUs() {
		return n.Errorf(virterr.ConfigUnsupported, "CPU topology doesn't match maximum vcpu count: %d CPUs, %d vCPUs", product, d.VCPUs())
	}
	return nil
}
