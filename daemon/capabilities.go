package daemon

import (
	"context"
	"sort"
	"strconv"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/daemon/nodeinfo"
	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) connectGetCapabilities(context.Context, *rpc.Call, *none) (*libvirt.ConnectGetCapabilitiesRet, error) {
	root := xmltree.New("capabilities")
	if err := d.addHost(root); err != nil {
		return nil, err
	}
	d.addGuest(root)
	return &libvirt.ConnectGetCapabilitiesRet{Capabilities: root.String()}, nil
}

// addHost describes the machine.
func (d *Daemon) addHost(root *xmltree.Node) error {
	cells, err := d.node.Cells()
	if err != nil {
		return err
	}
	summary, err := d.node.Summary()
	if err != nil {
		return err
	}
	host := root.Append(xmltree.New("host"))
	host.Append(xmltree.NewText("uuid", d.node.UUID().String()))
	cpu := host.Append(xmltree.New("cpu"))
	cpu.Append(xmltree.NewText("arch", "x86_64"))
	d.addHostCPU(cpu, summary)
	for _, size := range pageSizes(d.node.HugePages(0)) {
		cpu.Append(xmltree.New("pages", "unit", "KiB", "size", strconv.Itoa(int(size))))
	}
	host.Append(xmltree.New("power_management"))
	host.Append(xmltree.New("iommu", "support", yesno(d.node.IOMMU())))
	host.Append(xmltree.New("topology")).Append(cellsNode(d.node, cells))
	return nil
}

// addHostCPU names the CPU as domains see it with host-model.
func (d *Daemon) addHostCPU(cpu *xmltree.Node, s nodeinfo.Summary) {
	model := d.hostModel()
	if model != nil {
		cpu.Append(xmltree.NewText("model", model.Name))
		if model.Vendor != "" {
			cpu.Append(xmltree.NewText("vendor", model.Vendor))
		}
	}
	if mc := d.node.CPUInfo()["microcode"]; mc != "" {
		if v, err := strconv.ParseUint(mc, 0, 32); err == nil {
			cpu.Append(xmltree.New("microcode", "version", strconv.FormatUint(v, 10)))
		}
	}
	cpu.Append(xmltree.New("topology", "sockets", strconv.Itoa(s.Sockets), "dies", "1",
		"cores", strconv.Itoa(s.Cores), "threads", strconv.Itoa(s.Threads)))
	if model == nil {
		return
	}
	for _, f := range model.Features {
		if f.Policy == "require" || f.Policy == "force" || f.Policy == "" {
			cpu.Append(xmltree.New("feature", "name", f.Name))
		}
	}
}

// hostModel asks the driver once what the host's CPU is; nil when it does not say.
func (d *Daemon) hostModel() *domain.CPUModel {
	d.capsOnce.Do(func() {
		if d.cfg.CPU == nil {
			return
		}
		m, err := d.cfg.CPU.HostModel()
		if err != nil {
			d.log.Warn("the host's CPU has no model that clients know", "error", err)
			return
		}
		d.capsCPU = &m
	})
	return d.capsCPU
}

func pageSizes(huge map[uint32]uint64) []uint32 {
	sizes := []uint32{4}
	for s := range huge {
		sizes = append(sizes, s)
	}
	sort.Slice(sizes, func(i, j int) bool { return sizes[i] < sizes[j] })
	return sizes
}

func cellsNode(node *nodeinfo.Node, cells []nodeinfo.Cell) *xmltree.Node {
	out := xmltree.New("cells", "num", strconv.Itoa(len(cells)))
	for _, c := range cells {
		cell := out.Append(xmltree.New("cell", "id", strconv.Itoa(c.ID)))
		cell.Append(xmltree.NewText("memory", strconv.FormatUint(c.Memory, 10), "unit", "KiB"))
		huge := node.HugePages(c.ID)
		small := c.Memory
		for size, count := range huge {
			small -= min(small, uint64(size)*count)
		}
		for _, size := range pageSizes(huge) {
			count := huge[size]
			if size == 4 {
				count = small / 4
			}
			cell.Append(xmltree.NewText("pages", strconv.FormatUint(count, 10), "unit", "KiB", "size", strconv.Itoa(int(size))))
		}
		addDistances(cell, cells, c)
		cpus := cell.Append(xmltree.New("cpus", "num", strconv.Itoa(len(c.CPUs))))
		for _, p := range c.CPUs {
			cpus.Append(cpuNode(p))
		}
	}
	return out
}

func addDistances(cell *xmltree.Node, cells []nodeinfo.Cell, c nodeinfo.Cell) {
	if len(c.Distances) == 0 {
		return
	}
	n := cell.Append(xmltree.New("distances"))
	for _, other := range cells {
		n.Append(xmltree.New("sibling", "id", strconv.Itoa(other.ID), "value", strconv.Itoa(c.Distances[other.ID])))
	}
}

// cpuNode has all of the topology or none of it: the schema wants it so.
func cpuNode(p nodeinfo.CPU) *xmltree.Node {
	id := strconv.Itoa(p.ID)
	if !p.Online {
		return xmltree.New("cpu", "id", id)
	}
	return xmltree.New("cpu", "id", id, "socket_id", strconv.Itoa(p.Socket), "die_id", strconv.Itoa(p.Die),
		"cluster_id", strconv.Itoa(p.Cluster), "core_id", strconv.Itoa(p.Core), "siblings", formatList(p.Siblings))
}

// formatList is the opposite of nodeinfo.ParseList.
func formatList(ids []int) string {
	var parts []string
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1] == ids[j]+1 {
			j++
		}
		part := strconv.Itoa(ids[i])
		if j > i {
			part += "-" + strconv.Itoa(ids[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// shortMachines are the names that stand for the newest versioned machine types.
var shortMachines = map[string]string{domain.MachinePC: "pc", domain.MachineQ35: "q35"}

// addGuest describes what domains can be.
func (d *Daemon) addGuest(root *xmltree.Node) {
	guest := root.Append(xmltree.New("guest"))
	guest.Append(xmltree.NewText("os_type", "hvm"))
	arch := guest.Append(xmltree.New("arch", "name", "x86_64"))
	arch.Append(xmltree.NewText("wordsize", "64"))
	arch.Append(xmltree.NewText("emulator", d.cfg.Emulator))
	for _, m := range domain.MachineTypes {
		max := strconv.Itoa(domain.MaxVCPUs)
		arch.Append(xmltree.NewText("machine", m.Name, "maxCpus", max))
		if short := shortMachines[m.Name]; short != "" {
			arch.Append(xmltree.NewText("machine", short, "canonical", m.Name, "maxCpus", max))
		}
	}
	arch.Append(xmltree.New("domain", "type", "kvm"))
	features := guest.Append(xmltree.New("features"))
	features.Append(xmltree.New("acpi", "default", "on", "toggle", "yes"))
	features.Append(xmltree.New("apic", "default", "on", "toggle", "no"))
	features.Append(xmltree.New("cpuselection"))
	features.Append(xmltree.New("deviceboot"))
	features.Append(xmltree.New("disksnapshot", "default", "off", "toggle", "no"))
}

// connectGetSysinfo prints what the firmware's tables say of the machine.
func (d *Daemon) connectGetSysinfo(_ context.Context, _ *rpc.Call, a *libvirt.ConnectGetSysinfoArgs) (*libvirt.ConnectGetSysinfoRet, error) {
	if err := noFlags(a.Flags, "virConnectGetSysinfo"); err != nil {
		return nil, err
	}
	root := xmltree.New("sysinfo", "type", "smbios")
	for _, block := range []struct {
		name    string
		entries [][2]string
	}{
		{"bios", [][2]string{{"vendor", "bios_vendor"}, {"version", "bios_version"}, {"date", "bios_date"}, {"release", "bios_release"}}},
		{"system", [][2]string{
			{"manufacturer", "sys_vendor"}, {"product", "product_name"}, {"version", "product_version"}, {"serial", "product_serial"},
			{"uuid", "product_uuid"}, {"sku", "product_sku"}, {"family", "product_family"},
		}},
		{"baseBoard", [][2]string{
			{"manufacturer", "board_vendor"}, {"product", "board_name"}, {"version", "board_version"}, {"serial", "board_serial"}, {"asset", "board_asset_tag"},
		}},
		{"chassis", [][2]string{
			{"manufacturer", "chassis_vendor"}, {"version", "chassis_version"}, {"serial", "chassis_serial"}, {"asset", "chassis_asset_tag"},
		}},
	} {
		node := xmltree.New(block.name)
		for _, e := range block.entries {
			if v := d.node.DMI(e[1]); v != "" {
				node.Append(xmltree.NewText("entry", v, "name", e[0]))
			}
		}
		if len(node.Children) > 0 {
			root.Append(node)
		}
	}
	if len(root.Children) == 0 {
		return nil, virterr.New(virterr.ConfigUnsupported, "Host SMBIOS information is not available: /sys/class/dmi/id is missing or empty")
	}
	return &libvirt.ConnectGetSysinfoRet{Sysinfo: root.String()}, nil
}
