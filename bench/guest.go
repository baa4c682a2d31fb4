package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"virtd/hypervisor"
	"virtd/hypervisor/memory"
)

// cmdline is the kernel command line of every guest here: fast and quiet.
const cmdline = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=1 " +
	"apparmor=0 audit=0"

// A guest describes one virtual machine in a way that both engines can be told.
type guest struct {
	kernel, initrd string
	args           string // further kernel arguments
	memory         int    // MiB
	huge           bool   // 2 MiB pages of hugetlbfs, else anonymous memory
	disks          []disk
	tap            string // "" is no network
	mac            string
	model          string // of the interface: modelVirtio, or modelE1000E
	driver         string // who moves the tap's packets to virtio-net: qemu, or vhost
	queues         int    // pairs of the interface, and vCPUs
	function       string // a PCI function of the host that the guest has, by its address
}

// Models of the interface on a tap.
const (
	modelVirtio = ""       // virtio-net
	modelE1000E = "e1000e" // an emulated card, of the peer only
)

type disk struct {
	path, serial string
	readOnly     bool
}

// Boards of the peer.
const (
	boardQ35 = "q35" // as it comes: what "QEMU q35" means to its users
	// boardTrimmed has the chips switched off that cost a guest time and that our q35 does not have either.
	boardTrimmed = "q35,hpet=off,vmport=off,smbus=off,sata=off"
)

// qemu returns the peer's arguments for a board with nothing on it but what the guest asks for.
func (g guest) qemu(board string) []string {
	a := []string{"-M", board, "-accel", "kvm", "-cpu", "host", "-smp", fmt.Sprint(max(g.queues, 1)),
		"-m", fmt.Sprint(g.memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", g.kernel, "-initrd", g.initrd, "-append", cmdline + " " + g.args}
	if g.huge {
		a = append(a, "-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,hugetlb=on,hugetlbsize=2M,share=off", g.memory),
			"-machine", "memory-backend=ram")
	}
	port := 0
	plug := func(device string) {
		port++
		a = append(a, "-device", fmt.Sprintf("pcie-root-port,id=rp%d,chassis=%d,addr=%d", port, port, port),
			"-device", fmt.Sprintf("%s,bus=rp%d", device, port))
	}
	for i, d := range g.disks {
		ro := ""
		if d.readOnly {
			ro = ",read-only=on"
		}
		a = append(a, "-blockdev", fmt.Sprintf("driver=raw,node-name=d%d,discard=unmap%s,file.driver=file,file.filename=%s,file.aio=io_uring%s", i, ro, d.path, ro))
		plug(fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=%s", i, d.serial))
	}
	if g.tap != "" {
		netdev := "tap,id=n,script=no,downscript=no,vhost=" + map[bool]string{true: "on", false: "off"}[g.driver == driverVhost]
		device := cmp.Or(g.model, "virtio-net-pci") + ",netdev=n,mac=" + g.mac
		if g.queues > 1 { // as libvirt asks for them
			netdev += fmt.Sprintf(",queues=%d", g.queues)
			device += fmt.Sprintf(",mq=on,vectors=%d", 2*g.queues+2)
		}
		a = append(a, "-netdev", netdev+",ifname="+g.tap)
		plug(device)
	}
	if g.function != "" {
		plug("vfio-pci,host=" + g.function)
	}
	return a
}

// driverVhost is the driver that has the host's kernel move packets.
const driverVhost = "vhost"

// virtd writes the configuration of the same machine for our engine and returns its path.
func (g guest) virtd(dir string) (string, error) {
	cpus := max(g.queues, 1)
	c := hypervisor.Config{
		Version: hypervisor.ConfigVersion, Name: "bench", UUID: "c7a5fdbd-edaf-9455-926a-d65c16db1809",
		Machine: hypervisor.MachineQ35, KVM: "kvm",
		CPU: hypervisor.CPU{Count: cpus, Online: cpus, Mode: hypervisor.CPUHostPassthrough,
			Topology: hypervisor.Topology{Sockets: cpus, Dies: 1, Clusters: 1, Cores: 1, Threads: 1}},
		Memory: hypervisor.Memory{Size: uint64(g.memory) << 20, Backing: memory.Backing{Kind: memory.Anonymous}},
		Boot:   hypervisor.Boot{Kernel: "kernel", Initrd: "initrd", Cmdline: cmdline + " " + g.args},
		Clock:  hypervisor.Clock{PIT: true}, OnReboot: hypervisor.ActionStop, OnCrash: hypervisor.ActionStop,
		Serials: []hypervisor.Serial{{ID: "serial0", Chardev: hypervisor.Chardev{Type: "unix", File: "serial"}}},
		Confine: hypervisor.Confine{Seccomp: true, Landlock: true},
	}
	open := map[hypervisor.FileName]string{"kvm": "/dev/kvm", "kernel": g.kernel, "initrd": g.initrd, "serial": "stdio"}
	if g.huge {
		c.Memory.Backing = memory.Backing{Kind: memory.HugeTLB, HugePage: 2 << 20}
	}
	plug := func() hypervisor.PCIAddress {
		n := uint8(len(c.RootPorts) + 1)
		c.RootPorts = append(c.RootPorts, hypervisor.RootPort{ID: fmt.Sprintf("pci.%d", n), Index: n,
			Address: hypervisor.PCIAddress{Slot: n}, Chassis: n, Port: 8 * n})
		return hypervisor.PCIAddress{Bus: n}
	}
	for i, d := range g.disks {
		name := hypervisor.FileName(fmt.Sprintf("disk%d", i))
		open[name] = d.path
		c.Disks = append(c.Disks, hypervisor.Disk{ID: "virtio-" + string(name), Address: plug(), File: name, Format: "raw",
			ReadOnly: d.readOnly, Serial: d.serial, Discard: true})
	}
	if g.tap != "" {
		nic := hypervisor.NIC{ID: "net0", Address: plug(), MAC: g.mac, Driver: g.driver, Queues: cpus}
		for i := range cpus {
			tap := hypervisor.FileName(fmt.Sprintf("tap%d", i))
			open[tap], nic.Taps = "tap:"+g.tap, append(nic.Taps, tap)
			if g.driver == driverVhost {
				v := hypervisor.FileName(fmt.Sprintf("vhost%d", i))
				open[v], nic.Vhosts = "/dev/vhost-net", append(nic.Vhosts, v)
			}
		}
		c.NICs = []hypervisor.NIC{nic}
	}
	if g.function != "" {
		group, err := os.Readlink("/sys/bus/pci/devices/" + g.function + "/iommu_group")
		if err != nil {
			return "", err
		}
		open["vfio"], open["group"] = "/dev/vfio/vfio", "/dev/vfio/"+filepath.Base(group)
		c.VFIO = "vfio"
		c.Hostdevs = []hypervisor.Hostdev{{ID: "hostdev0", Address: plug(), Host: g.function, Group: "group"}}
	}
	for name := range open {
		c.Files = append(c.Files, name)
	}
	data, err := json.Marshal(map[string]any{"config": c, "open": open})
	if err != nil {
		return "", err
	}
	p := filepath.Join(dir, "config.json")
	return p, os.WriteFile(p, data, 0o600)
}
