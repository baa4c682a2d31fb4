package kvm

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/hypervisor"
	"virtd/hypervisor/block"
	"virtd/network/bridge"
	"virtd/network/firewall"
	"virtd/network/portconf"
	"virtd/virterr"
)

// devices plans every device, in the order of the XML.
func (p *planner) devices() error {
	devices := p.def.Tree().Root.Child("devices")
	for _, kind := range []struct {
		element string
		plan    func(*xmltree.Node) error
	}{
		{"controller", p.controller}, {"disk", p.disk}, {"interface", p.nic}, {"hostdev", p.hostdev}, {"serial", p.serial},
		{"console", p.console}, {"memballoon", p.balloon}, {"rng", p.rng}, {"input", p.keyboard}, {"panic", p.pvpanic},
	} {
		for _, n := range devices.All(kind.element) {
			if err := kind.plan(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// alias returns the name by which engine and virtd speak of a device.
func alias(n *xmltree.Node) string { return n.Child("alias").Attr("name") }

// number reads an attribute that domain has checked; a missing one is 0.
func number(n *xmltree.Node, attr string) int {
	v, _ := strconv.ParseInt(n.Attr(attr), 0, 64)
	return int(v)
}

func address(n *xmltree.Node) (hypervisor.PCIAddress, error) {
	a := n.Child("address")
	if a.Attr("type") != "pci" {
		return hypervisor.PCIAddress{}, virterr.New(virterr.InternalError, "device %s has no PCI address", alias(n))
	}
	at, err := domain.ReadPCIAddress(a)
	return hypervisor.PCIAddress{Bus: uint8(at.Bus), Slot: uint8(at.Slot), Function: uint8(at.Function)}, err
}

// packed reads which virtqueues a virtio device's <driver> wants.
func packed(driver *xmltree.Node) hypervisor.Transport {
	return hypervisor.Transport{Packed: driver.Attr("packed") == "on"}
}

func (p *planner) controller(n *xmltree.Node) error {
	if hole := n.Child("pcihole64"); hole != nil {
		size, err := domain.ParseSize(hole.Trimmed(), hole.Attr("unit"))
		if err != nil {
			return err
		}
		p.cfg.PCIHole64 = size
	}
	if n.Attr("model") != "pcie-root-port" {
		return nil
	}
	at, err := address(n)
	if err != nil {
		return err
	}
	target := n.Child("target")
	p.cfg.RootPorts = append(p.cfg.RootPorts, hypervisor.RootPort{
		ID: alias(n), Index: uint8(number(n, "index")), Address: at,
		Multi:   n.Child("address").Attr("multifunction") == "on",
		Chassis: uint8(number(target, "chassis")), Port: uint8(number(target, "port")),
		Memory: uint64(number(target, "memReserve")) << 10,
	})
	return nil
}

func (p *planner) disk(n *xmltree.Node) error {
	at, err := address(n)
	if err != nil {
		return err
	}
	if domain.IsVhostUser(n) {
		return p.vhostUserDisk(n, at)
	}
	driver, blockio := n.Child("driver"), n.Child("blockio")
	d := hypervisor.Disk{
		ID: alias(n), Address: at, File: file("disk", n), Format: driver.Attr("type"),
		ReadOnly: n.Child("readonly") != nil, Serial: n.Child("serial").Content(),
		Cache: driver.Attr("cache"), IO: driver.Attr("io"), Discard: driver.Attr("discard") == "unmap",
		DetectZeroes: driver.Attr("detect_zeroes"),
		Queues:       number(driver, "queues"), QueueSize: number(driver, "queue_size"),
		LogicalBlock: number(blockio, "logical_block_size"), PhysBlock: number(blockio, "physical_block_size"),
		Transport: packed(driver),
	}
	if d.Cache == "default" {
		d.Cache = ""
	}
	tune, err := domain.ReadIOTune(n)
	if err != nil {
		return err
	}
	d.Throttle = planThrottle(tune)
	p.cfg.Disks = append(p.cfg.Disks, d)
	p.add(Resource{
		Kind: ResourceDisk, Files: []hypervisor.FileName{d.File}, Alias: d.ID, Path: domain.DiskPath(n),
		Disk: &DiskResource{
			Block: domain.DiskIsBlock(n), ReadOnly: d.ReadOnly, Shareable: n.Child("shareable") != nil,
			Direct: d.Cache == "none" || d.Cache == "directsync", Chain: planChain(d.Format, n),
		},
	})
	return nil
}

// planThrottle is what the engine calls a disk's limits; nil for none.
func planThrottle(t domain.IOTune) *hypervisor.Throttle {
	if !t.Limited() {
		return nil
	}
	rate := func(r domain.IORate) block.Rate {
		if r.Max == 0 {
			r.MaxLength = 0 // libvirt has one of a second here, of nothing
		}
		return block.Rate{PerSecond: r.Sec, Burst: r.Max, Seconds: r.MaxLength}
	}
	return &hypervisor.Throttle{Group: t.Group, Limits: block.Limits{
		TotalBytes: rate(t.TotalBytes), ReadBytes: rate(t.ReadBytes), WriteBytes: rate(t.WriteBytes),
		TotalOps: rate(t.TotalIOPS), ReadOps: rate(t.ReadIOPS), WriteOps: rate(t.WriteIOPS), OpBytes: t.SizeIOPS,
	}}
}

// file names the descriptor of a device: disk:virtio-disk0.
func file(kind string, n *xmltree.Node) hypervisor.FileName {
	return hypervisor.FileName(kind + ":" + alias(n))
}

// files names n of them: tap:net0:0 and so on.
func files(kind string, n *xmltree.Node, count int) []hypervisor.FileName {
	out := make([]hypervisor.FileName, count)
	for i := range out {
		out[i] = hypervisor.FileName(fmt.Sprintf("%s:%s:%d", kind, alias(n), i))
	}
	return out
}

func (p *planner) nic(n *xmltree.Node) error {
	at, err := address(n)
	if err != nil {
		return err
	}
	if n.Attr("type") == "hostdev" {
		return p.hostdev(n)
	}
	driver := n.Child("driver")
	nic := hypervisor.NIC{
		ID: alias(n), Address: at, MAC: n.Child("mac").Attr("address"), Queues: max(number(driver, "queues"), 1),
		MTU: number(n.Child("mtu"), "size"), LinkDown: n.Child("link").Attr("state") == "down",
		RxQueueSize: number(driver, "rx_queue_size"), TxQueueSize: number(driver, "tx_queue_size"),
		Offloads: offloads(driver), NoEventIdx: driver.Attr("event_idx") == "off",
		Transport: packed(driver),
	}
	nic.AccessPlatform, nic.PagePerVQ = driver.Attr("iommu") == "on", driver.Attr("page_per_vq") == "on"
	nic.NoIOEventFD = driver.Attr("ioeventfd") == "off"
	switch teaming := n.Child("teaming"); teaming.Attr("type") {
	case "persistent":
		nic.Standby = true
	case "transient":
		return teaming.Errorf(virterr.ConfigUnsupported, "teaming type 'transient' is for host devices, and the network '%s' gives none", n.Child("source").Attr("network"))
	}
	if driver.Attr("rss") == "on" {
		if err := p.steering(n, &nic); err != nil {
			return err
		}
	}
	vhost := n.Child("backend").Attr("vhost")
	if nic.HashReport = driver.Attr("rss_hash_report") == "on"; nic.HashReport {
		if err := canReportHashes(n, nic.ID); err != nil {
			return err
		}
	}
	switch {
	case domain.IsVhostUser(n):
		return p.vhostUserNIC(n, nic)
	case n.Attr("type") == "user":
		return p.userNIC(n, nic)
	}
	if nic.Driver, err = p.nicDriver(&nic, driver.Attr("name"), vhost); err != nil {
		return err
	}
	if err := p.tap(n, &nic); err != nil {
		return err
	}
	if nic.Driver == "vhost" {
		nic.Vhosts = files("vhost", n, nic.Queues)
		p.add(Resource{Kind: ResourceVhost, Files: nic.Vhosts, Alias: nic.ID, Path: cmp.Or(vhost, bridge.VhostNetDevice), Packed: nic.Packed})
	}
	p.cfg.NICs = append(p.cfg.NICs, nic)
	return nil
}

// tap plans the host's end of an interface.
func (p *planner) tap(n *xmltree.Node, nic *hypervisor.NIC) error {
	source, target := n.Child("source"), n.Child("target")
	nic.Taps = files("tap", n, nic.Queues)
	limits, err := readLimits(n)
	if err != nil {
		return err
	}
	if n.Attr("type") == "direct" {
		p.add(Resource{
			Kind: ResourceMacvtap, Files: nic.Taps, Alias: nic.ID,
			Macvtap: &MacvtapResource{
				Name: target.Attr("dev"), Parent: source.Attr("dev"), Mode: bridge.MacvtapMode(source.Attr("mode")), MAC: nic.MAC,
				MTU: nic.MTU, Queues: nic.Queues, Bandwidth: limits,
			},
		})
		return nil
	}
	tap := &TapResource{
		Name: target.Attr("dev"), Bridge: source.Attr("bridge"), MAC: nic.MAC, MTU: nic.MTU,
		Queues: nic.Queues, Unmanaged: target.Attr("managed") == "no",
		Isolated: n.Child("port").Attr("isolated") == "yes", Device: n.Child("backend").Attr("tap"),
		Steered: nic.Steering != nil, Bandwidth: limits,
	}
	if err := tap.limit(n); err != nil {
		return err
	}
	p.add(Resource{Kind: ResourceTap, Files: nic.Taps, Alias: nic.ID, Tap: tap})
	return nil
}

// readLimits reads what an interface may receive and send, nil where nothing limits that.
func readLimits(nic *xmltree.Node) (*portconf.Bandwidth, error) {
	limits, err := portconf.ReadBandwidth(nic, true)
	if err != nil {
		return nil, err
	}
	if limits.In.Floor = 0; !limits.Limited() { // a floor is the network's business
		return nil, nil
	}
	return &limits, nil
}

// limit reads what else is asked of a tap.
func (t *TapResource) limit(nic *xmltree.Node) error {
	vlan, err := portconf.ReadVLAN(nic)
	if err != nil {
		return err
	}
	if vlan.Given() {
		t.VLAN = &vlan
	}
	if t.Coalesce, err = portconf.ReadCoalesce(nic); err != nil {
		return err
	}
	t.Filter, err = firewall.ReadFilter(nic)
	return err
}

// userNIC plans an interface behind which is a process of its own.
func (p *planner) userNIC(n *xmltree.Node, nic hypervisor.NIC) error {
	network, err := domain.ReadUserNetwork(n)
	if err != nil {
		return err
	}
	nic.Driver, nic.Stream = "qemu", file("stream", n)
	p.add(Resource{
		Kind: ResourceUserNet, Files: []hypervisor.FileName{nic.Stream}, Alias: nic.ID,
		UserNet: &UserNetResource{MAC: nic.MAC, MTU: nic.MTU, Network: network},
	})
	p.cfg.NICs = append(p.cfg.NICs, nic)
	return nil
}

// nicDriver says who moves the packets: what the XML names, else the kernel when it can. It reports no hashes, and has no packed
// virtqueues, as a rule, so the engine takes what wants one of these and leaves it open. Of a device that the XML names itself
// the opening will tell, and whether vhost-net has packed virtqueues after all.
func (p *planner) nicDriver(nic *hypervisor.NIC, wanted, device string) (string, error) {
	switch {
	case device != "":
		return "vhost", nil
	case wanted == "qemu" || wanted == "" && (!p.facts.VhostNet || nic.Packed || nic.HashReport):
		return "qemu", nil
	case !p.facts.VhostNet:
		return "", virterr.New(virterr.ConfigUnsupported,
			"vhost-net was requested for an interface, but is unavailable: interface %s; load module vhost_net or use <driver name='qemu'/>", nic.ID)
	}
	return "vhost", nil
}

func offloads(driver *xmltree.Node) map[string]bool {
	var out map[string]bool
	for _, side := range []string{"host", "guest"} {
		n := driver.Child(side)
		if n == nil {
			continue
		}
		for _, a := range n.Attrs {
			if out == nil {
				out = map[string]bool{}
			}
			out[side+"."+a.Name.Local] = a.Value == "on"
		}
	}
	return out
}

// chardev plans the host side of a serial port or console.
func (p *planner) chardev(n *xmltree.Node) hypervisor.Chardev {
	c := hypervisor.Chardev{Type: n.Attr("type")}
	source := n.Child("source")
	if c.Type != "null" {
		c.File = file("chardev", n)
		r := Resource{Kind: ResourceChardev, Files: []hypervisor.FileName{c.File}, Alias: alias(n), Path: source.Attr("path"),
			Chardev: &ChardevResource{Type: c.Type}}
		switch c.Type {
		case "pty":
			r.Path = "" // the host chooses
		case "unix":
			c.Server = source.Attr("mode") != "connect"
			r.Chardev.Listen = c.Server
		case "file":
			r.Chardev.Append = source.Attr("append") == "on"
		}
		p.add(r)
	}
	log := n.Child("log")
	if log == nil {
		return c
	}
	paths := []string{log.Attr("file")}
	if p.facts.ConsoleLogMax > 0 {
		paths, c.LogMax = append(paths, paths[0]+".0"), p.facts.ConsoleLogMax
	}
	c.Log = files("log", n, len(paths))
	for i, path := range paths {
		p.add(Resource{Kind: ResourceLog, Files: c.Log[i : i+1], Alias: alias(n), Path: path, Append: log.Attr("append") == "on"})
	}
	return c
}

func (p *planner) serial(n *xmltree.Node) error {
	p.cfg.Serials = append(p.cfg.Serials, hypervisor.Serial{
		ID: alias(n), Port: number(n.Child("target"), "port"), Chardev: p.chardev(n),
	})
	return nil
}

// console plans virtio consoles; a console of type serial is the first serial port under another name.
func (p *planner) console(n *xmltree.Node) error {
	if n.Child("target").Attr("type") != "virtio" {
		return nil
	}
	index := n.Child("address").Attr("controller")
	for _, c := range n.Parent().All("controller") {
		if c.Attr("type") != "virtio-serial" || c.Attr("index") != index {
			continue
		}
		at, err := address(c)
		if err != nil {
			return err
		}
		p.cfg.Consoles = append(p.cfg.Consoles, hypervisor.Console{ID: alias(n), Address: at, Chardev: p.chardev(n), Transport: packed(c.Child("driver"))})
		return nil
	}
	return virterr.New(virterr.InternalError, "console %s has no virtio-serial controller", alias(n))
}

func (p *planner) balloon(n *xmltree.Node) error {
	if n.Attr("model") == "none" {
		return nil
	}
	at, err := address(n)
	if err != nil {
		return err
	}
	target := p.cfg.Memory.Size
	if p.def.CurrentMemory() < p.def.Memory() {
		target = p.def.CurrentMemory() << 10
	}
	p.cfg.Balloon = &hypervisor.Balloon{
		ID: alias(n), Address: at, Target: target, StatsPeriod: number(n.Child("stats"), "period"),
		DeflateOnOOM: n.Attr("autodeflate") == "on", FreeReporting: n.Attr("freePageReporting") == "on",
		Transport: packed(n.Child("driver")),
	}
	return nil
}

func (p *planner) rng(n *xmltree.Node) error {
	at, err := address(n)
	if err != nil {
		return err
	}
	r := hypervisor.RNG{ID: alias(n), Address: at, Transport: packed(n.Child("driver"))}
	if rate := n.Child("rate"); rate != nil {
		r.RateBytes, r.RatePeriod = uint64(number(rate, "bytes")), uint64(number(rate, "period"))
		if r.RatePeriod == 0 {
			r.RatePeriod = 1000 // libvirt's default, milliseconds
		}
	}
	// getrandom(2) gives the same bytes as these two, without a descriptor.
	path := strings.TrimSpace(n.Child("backend").Content())
	if n.Child("backend").Attr("model") == "random" && path != "/dev/urandom" && path != "/dev/random" {
		r.File = file("rng", n)
		p.add(Resource{Kind: ResourceRNG, Files: []hypervisor.FileName{r.File}, Alias: r.ID, Path: path})
	}
	p.cfg.RNGs = append(p.cfg.RNGs, r)
	return nil
}

// keyboard plans virtio keyboards. Other inputs are the machine's own, or kept without being provided.
func (p *planner) keyboard(n *xmltree.Node) error {
	if !domain.IsKeyboard(n) {
		return nil
	}
	at, err := address(n)
	if err != nil {
		return err
	}
	p.cfg.Keyboards = append(p.cfg.Keyboards, hypervisor.Keyboard{ID: alias(n), Address: at, Transport: packed(n.Child("driver"))})
	return nil
}

func (p *planner) pvpanic(*xmltree.Node) error {
	p.cfg.PVPanic = true
	return nil
}
