package domain

import (
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// DefaultCPUModel is the CPU of a domain whose XML names none, with defaultFeatures added: what x86-64-v2 asks for, so
// that current distributions run, and what KVM itself emulates, so that it is the same on every host. It is written into
// the definition, which therefore keeps it. hypervisor/cpuid says the same; a test of driver/kvm compares.
const DefaultCPUModel = "qemu64"

var defaultFeatures = []string{"arat", "lahf_lm", "popcnt", "sse4.1", "sse4.2", "ssse3", "tsc-deadline", "x2apic"}

// platform completes and checks the machine, the CPU, the clock and what happens at the end.
func (d *Definition) platform() error {
	for _, step := range []func(root *xmltree.Node) error{
		d.readOS, d.readMemoryBacking, d.readFeatures, d.readCPU, d.readClock, d.readLifecycle,
	} {
		if err := step(d.doc.Root); err != nil {
			return err
		}
	}
	return nil
}

func (d *Definition) readOS(root *xmltree.Node) error {
	os := root.Child("os")
	t := os.Child("type")
	if t == nil {
		return root.Errorf(virterr.XMLError, "missing operating system type: <domain> needs <os><type machine='q35'>hvm</type></os>")
	}
	t.SetContent(t.Trimmed())
	if t.Attr("arch") == "" {
		t.SetAttr("arch", "x86_64")
	}
	machine, ok := CanonicalMachine(t.Attr("machine"))
	if !ok && !d.opts.Stored {
		return t.Errorf(virterr.ConfigUnsupported, "machine type '%s' is not supported; use q35 or pc", t.Attr("machine"))
	}
	t.SetAttr("machine", machine)
	for _, name := range []string{"kernel", "initrd"} {
		path := os.Child(name)
		if path == nil {
			continue
		}
		if path.SetContent(path.Trimmed()); path.Trimmed() == "" {
			path.Remove()
		} else if !strings.HasPrefix(path.Trimmed(), "/") {
			return path.Errorf(virterr.XMLError, "<%s> '%s' must be an absolute path", name, path.Trimmed())
		}
	}
	if os.Child("kernel") == nil {
		for _, name := range []string{"initrd", "cmdline"} {
			if n := os.Child(name); n != nil && os.Child("loader") == nil && os.Attr("firmware") == "" && !d.opts.Stored {
				return n.Errorf(virterr.XMLError, "<%s> needs a <kernel>", name)
			}
		}
	}
	return d.readBootOrder(root, os)
}

// readBootOrder fills in <boot dev='hd'/> as libvirt does and refuses two ways of saying the order.
func (d *Definition) readBootOrder(root, os *xmltree.Node) error {
	seen := map[string]bool{}
	for _, dev := range root.Child("devices").Elements() {
		boot := dev.Child("boot")
		if boot == nil {
			continue
		}
		if len(os.All("boot")) > 0 {
			return boot.Errorf(virterr.ConfigUnsupported, "per-device boot elements cannot be used together with os/boot elements")
		}
		order := boot.Attr("order")
		if n, err := strconv.ParseUint(order, 10, 31); err != nil || n == 0 {
			return boot.Errorf(virterr.XMLError, "boot order '%s' is not a number above 0", order)
		}
		if seen[order] {
			return boot.Errorf(virterr.XMLError, "boot order '%s' used for more than one device", order)
		}
		seen[order] = true
	}
	if len(seen) == 0 && len(os.All("boot")) == 0 {
		os.Append(xmltree.New("boot", "dev", "hd"))
	}
	return nil
}

func (d *Definition) readMemoryBacking(root *xmltree.Node) error {
	backing := root.Child("memoryBacking")
	for _, page := range backing.Child("hugepages").All("page") {
		if nodes := page.Attr("nodeset"); nodes != "" && nodes != "0" && !d.opts.Stored {
			return page.Errorf(virterr.ConfigUnsupported, "huge pages for NUMA nodes %s: there is one node, 0", nodes)
		}
		size, err := ParseSize(page.Attr("size"), page.Attr("unit"))
		if err != nil {
			return page.Errorf(virterr.XMLError, "<page>: %s", virterr.As(err).Message)
		}
		if (size < 4096 || size&(size-1) != 0) && !d.opts.Stored {
			return page.Errorf(virterr.XMLError, "page size of %d bytes is not a power of two of at least 4 KiB", size)
		}
		page.SetAttr("size", strconv.FormatUint(size>>10, 10))
		page.SetAttr("unit", "KiB")
	}
	if pages := backing.Child("hugepages").All("page"); len(pages) > 1 && !d.opts.Stored {
		return pages[1].Errorf(virterr.ConfigUnsupported, "more than one huge page size is not supported")
	}
	if src := backing.Child("source"); src.Attr("type") == "anonymous" && backing.Child("access").Attr("mode") == "shared" && !d.opts.Stored {
		return src.Errorf(virterr.ConfigUnsupported, "anonymous memory cannot be shared; use <source type='memfd'/>")
	}
	return nil
}

func (d *Definition) readFeatures(root *xmltree.Node) error {
	// Every feature's default is "absent"; the vocabulary has said what can be switched.
	for _, f := range root.Child("features").Elements() {
		if f.Is("hyperv") {
			continue
		}
		if v, ok := f.LookupAttr("state"); !ok && stateful[f.Name.Local] && !d.opts.Stored {
			return f.Errorf(virterr.ConfigUnsupported, "feature <%s> without state='off' is not supported", f.Name)
		} else if !ok && v == "" && f.Is("pvspinlock") {
			f.SetAttr("state", "on")
		}
	}
	for _, f := range root.Child("features", "hyperv").Elements() {
		if _, ok := f.LookupAttr("state"); !ok && !d.opts.Stored {
			return f.Errorf(virterr.XMLError, "missing 'state' attribute for Hyper-V feature '%s'", f.Name)
		}
	}
	for _, f := range root.Child("features", "kvm").Elements() {
		if _, ok := f.LookupAttr("state"); !ok && !d.opts.Stored && !f.Is("dirty-ring") {
			return f.Errorf(virterr.XMLError, "missing 'state' attribute for KVM feature '%s'", f.Name)
		}
	}
	return nil
}

// stateful features mean "on" when they have no state, and we have none of them.
var stateful = map[string]bool{"pmu": true, "vmport": true, "smm": true, "vmcoreinfo": true}

func (d *Definition) readLifecycle(root *xmltree.Node) error {
	for _, def := range [][2]string{{"on_poweroff", "destroy"}, {"on_reboot", "restart"}, {"on_crash", "destroy"}} {
		if n := root.Child(def[0]); n == nil {
			root.Append(xmltree.NewText(def[0], def[1]))
		} else {
			n.SetContent(n.Trimmed())
		}
	}
	return nil
}
