package manager

import (
	"context"
	"fmt"
	"strconv"

	"libvirt.org/go/libvirtxml"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// BlockStats returns the counters of the disk that path names by its target (vda) or image; "" sums up all disks.
func (d *Domain) BlockStats(ctx context.Context, path string) (driver.BlockStats, error) {
	inst, wanted, err := d.diskAlias(path)
	if err != nil {
		return driver.BlockStats{}, err
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	all, err := d.blockStats(ctx, inst)
	if err != nil {
		return driver.BlockStats{}, err
	}
	if _, counted := all[wanted]; wanted != "" && !counted && d.servedElsewhere(wanted) {
		return driver.BlockStats{}, virterr.New(virterr.OperationUnsupported, "disk '%s' is served by another process, which has its counters", path)
	}
	return sum(all, wanted), nil
}

// servedElsewhere reports whether another process serves a running domain's device.
func (d *Domain) servedElsewhere(alias string) bool {
	live := d.live()
	if live == nil {
		return false
	}
	_, ok := live.VhostUser(alias)
	return ok
}

// LastBlockStats returns what BlockStats would, as of the last time that the running engine answered anybody; ok tells
// whether it ever has.
func (d *Domain) LastBlockStats(path string) (s driver.BlockStats, ok bool) {
	_, wanted, err := d.diskAlias(path)
	if err != nil {
		return driver.BlockStats{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run == nil || d.run.blocks == nil {
		return driver.BlockStats{}, false
	}
	return sum(d.run.blocks, wanted), true
}

// blockStats asks an engine and remembers its answer.
func (d *Domain) blockStats(ctx context.Context, inst driver.Instance) (map[string]driver.BlockStats, error) {
	all, err := inst.BlockStats(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != nil && d.run.inst == inst {
		d.run.blocks = all
	}
	return all, nil
}

// diskAlias returns the engine and the alias of the disk that path names, "" for all of them.
func (d *Domain) diskAlias(path string) (driver.Instance, string, error) {
	inst, live, err := d.engine()
	if err != nil || path == "" {
		return inst, "", err
	}
	disk, ok := findDisk(live, path)
	if !ok {
		return nil, "", virterr.New(virterr.InvalidArg, "invalid path '%s'", path)
	}
	return inst, disk.Alias, nil
}

func sum(all map[string]driver.BlockStats, wanted string) driver.BlockStats {
	var sum driver.BlockStats
	for alias, s := range all {
		if wanted == "" || alias == wanted {
			add(&sum, s)
		}
	}
	return sum
}

func add(sum *driver.BlockStats, s driver.BlockStats) {
	sum.ReadBytes += s.ReadBytes
	sum.ReadOps += s.ReadOps
	sum.WriteBytes += s.WriteBytes
	sum.WriteOps += s.WriteOps
	sum.FlushOps += s.FlushOps
	sum.ReadTime += s.ReadTime
	sum.WriteTime += s.WriteTime
	sum.FlushTime += s.FlushTime
	sum.Errors += s.Errors
	sum.Allocation += s.Allocation
	sum.Capacity += s.Capacity
	sum.Physical += s.Physical
}

// InterfaceStats returns the counters of the interface that device names by its host device (vnet0) or MAC.
func (d *Domain) InterfaceStats(ctx context.Context, device string) (driver.NetStats, error) {
	inst, live, err := d.engine()
	if err != nil {
		return driver.NetStats{}, err
	}
	for _, nic := range live.View().Devices.Interfaces {
		if nic.Alias == nil || !nicNamed(nic, device) {
			continue
		}
		ctx, cancel := d.call(ctx)
		defer cancel()
		all, err := inst.NetStats(ctx)
		s, counted := all[nic.Alias.Name]
		if err == nil && !counted && nic.Source != nil && nic.Source.VHostUser != nil {
			err = virterr.New(virterr.OperationUnsupported, "interface %s is served by another process, which has its counters", device)
		}
		return s, err
	}
	return driver.NetStats{}, virterr.New(virterr.InvalidArg, "'%s' is not a known interface", device)
}

func nicNamed(nic libvirtxml.DomainInterface, device string) bool {
	return nic.Target != nil && nic.Target.Dev == device || nic.MAC != nil && nic.MAC.Address == device
}

// findDisk finds a disk of a running domain by its target or by the path of its image.
func findDisk(live *domain.Definition, path string) (domain.Disk, bool) {
	for _, d := range live.Disks() {
		if d.Alias != "" && (d.Target == path || d.Path != "" && d.Path == path) {
			return d, true
		}
	}
	return domain.Disk{}, false
}

// diskPath is the image of the disk with that alias.
func diskPath(live *domain.Definition, alias string) string {
	for _, d := range live.Disks() {
		if d.Alias == alias {
			return d.Path
		}
	}
	return ""
}

// StatsGroup selects groups of domstats (virDomainStatsTypes). 0 is all of them.
type StatsGroup uint32

// Groups of domstats. Others are accepted and empty unless the caller enforces them.
const (
	StatsState     StatsGroup = 1
	StatsCPU       StatsGroup = 2
	StatsBalloon   StatsGroup = 4
	StatsVCPU      StatsGroup = 8
	StatsInterface StatsGroup = 16
	StatsBlock     StatsGroup = 32
	StatsDirtyRate StatsGroup = 512

	// StatsSupported are the groups that Stats fills.
	StatsSupported = StatsState | StatsCPU | StatsBalloon | StatsVCPU | StatsInterface | StatsBlock | StatsDirtyRate
)

// Param is a named value of domstats. Value is an int32, uint32, int64, uint64, float64, bool or string, as libvirt's
// typed parameter has it.
type Param struct {
	Name  string
	Value any
}

// Stats returns the domstats values of the groups. What an engine does not answer in time is left out: one domain must
// not spoil the others' numbers. With backing the images below those of disks are told too, without counters.
func (d *Domain) Stats(ctx context.Context, groups StatsGroup, backing bool) ([]Param, error) {
	if d.isRemoved() {
		return nil, d.notFound()
	}
	if groups == 0 {
		groups = StatsSupported
	}
	info := d.Info()
	inst, live, err := d.engine()
	if err != nil {
		inst = nil
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	s := &statsList{}
	for _, g := range []struct {
		group StatsGroup
		add   func()
	}{
		{StatsState, func() { s.state(info) }},
		{StatsCPU, func() { s.cpu(inst) }},
		{StatsBalloon, func() { s.balloon(ctx, info, inst) }},
		{StatsVCPU, func() { s.vcpus(ctx, info, inst) }},
		{StatsInterface, func() { s.interfaces(ctx, inst, live) }},
		{StatsBlock, func() { s.blocks(ctx, d, inst, live, backing) }},
		{StatsDirtyRate, func() { s.dirtyRate(ctx, inst) }},
	} {
		if groups&g.group != 0 {
			g.add()
		}
	}
	return s.params, nil
}

// statsList collects domstats. inst and live are nil for a domain that is off.
type statsList struct{ params []Param }

func (s *statsList) put(name string, value any) { s.params = append(s.params, Param{name, value}) }

func (s *statsList) state(info Info) {
	s.put("state.state", int32(info.State))
	s.put("state.reason", int32(info.Reason))
}

func (s *statsList) cpu(inst driver.Instance) {
	if inst == nil {
		return
	}
	t, err := inst.CPUTime()
	if err != nil {
		return
	}
	s.put("cpu.time", uint64(t.Total))
	s.put("cpu.user", uint64(t.User))
	s.put("cpu.system", uint64(t.System))
}

// balloonNames are the domstats names of the guest's statistics.
var balloonNames = map[int32]string{
	MemSwapIn: "swap_in", MemSwapOut: "swap_out", MemMajorFault: "major_fault", MemMinorFault: "minor_fault",
	MemUnused: "unused", MemAvailable: "available", MemUsable: "usable", MemLastUpdate: "last-update",
	MemDiskCaches: "disk_caches", MemHugeAlloc: "hugetlb_pgalloc", MemHugeFail: "hugetlb_pgfail", MemRSS: "rss",
}

func (s *statsList) balloon(ctx context.Context, info Info, inst driver.Instance) {
	s.put("balloon.current", info.CurrentMemory)
	s.put("balloon.maximum", info.Memory)
	if inst == nil {
		return
	}
	stats, err := inst.MemoryStats(ctx)
	if err != nil {
		return
	}
	for _, v := range memoryValues(stats) {
		if name := balloonNames[v.Tag]; name != "" {
			s.put("balloon."+name, v.Value)
		}
	}
}

func (s *statsList) vcpus(ctx context.Context, info Info, inst driver.Instance) {
	s.put("vcpu.current", uint32(info.VCPUs))
	s.put("vcpu.maximum", uint32(info.MaxVCPUs))
	if inst == nil {
		return
	}
	vcpus, err := inst.VCPUs(ctx)
	if err != nil {
		return
	}
	for _, v := range vcpus {
		s.put(fmt.Sprintf("vcpu.%d.state", v.Number), int32(VCPURunning))
		s.put(fmt.Sprintf("vcpu.%d.time", v.Number), uint64(v.Time))
	}
}

func (s *statsList) interfaces(ctx context.Context, inst driver.Instance, live *domain.Definition) {
	if inst == nil {
		return
	}
	nics := live.View().Devices.Interfaces
	s.put("net.count", uint32(len(nics)))
	all, err := inst.NetStats(ctx)
	for i, nic := range nics {
		prefix := fmt.Sprintf("net.%d.", i)
		if nic.Target != nil {
			s.put(prefix+"name", nic.Target.Dev)
		}
		if err != nil || nic.Alias == nil {
			continue
		}
		n, counted := all[nic.Alias.Name]
		if !counted { // another process moves the packets
			continue
		}
		s.put(prefix+"rx.bytes", n.RxBytes)
		s.put(prefix+"rx.pkts", n.RxPackets)
		s.put(prefix+"rx.errs", n.RxErrors)
		s.put(prefix+"rx.drop", n.RxDropped)
		s.put(prefix+"tx.bytes", n.TxBytes)
		s.put(prefix+"tx.pkts", n.TxPackets)
		s.put(prefix+"tx.errs", n.TxErrors)
		s.put(prefix+"tx.drop", n.TxDropped)
	}
}

func (s *statsList) blocks(ctx context.Context, d *Domain, inst driver.Instance, live *domain.Definition, backing bool) {
	if inst == nil {
		return
	}
	disks, count := live.Disks(), uint32(0)
	at := len(s.params)
	s.put("block.count", count)
	all, err := d.blockStats(ctx, inst)
	for i, node := range live.Tree().Root.Child("devices").All("disk") {
		disk := disks[i]
		top, chain := s.image(count, disk, disk.Path), []domain.BackingImage(nil)
		count++
		if backing {
			chain, _ = domain.DiskChain(node)
		}
		index, ierr := strconv.ParseUint(node.Child("source").Attr("index"), 10, 32)
		if backing && ierr == nil { // the images of a chain are numbered from it on
			s.put(top+"backingIndex", uint32(index))
		}
		if counted, ok := all[disk.Alias]; err == nil && ok { // of a vhost-user disk nobody here counts
			s.requests(top, counted)
		}
		for n, b := range chain {
			prefix := s.image(count, disk, b.Path)
			count++
			if ierr == nil {
				s.put(prefix+"backingIndex", uint32(index)+uint32(n)+1)
			}
		}
	}
	s.params[at].Value = count
}

// image begins what is told of one image of a disk, and returns the prefix of the rest.
func (s *statsList) image(number uint32, disk domain.Disk, path string) (prefix string) {
	prefix = fmt.Sprintf("block.%d.", number)
	if disk.Target != "" {
		s.put(prefix+"name", disk.Target)
	}
	if path != "" {
		s.put(prefix+"path", path)
	}
	return prefix
}

func (s *statsList) requests(prefix string, b driver.BlockStats) {
	s.put(prefix+"rd.reqs", b.ReadOps)
	s.put(prefix+"rd.bytes", b.ReadBytes)
	s.put(prefix+"rd.times", uint64(b.ReadTime))
	s.put(prefix+"wr.reqs", b.WriteOps)
	s.put(prefix+"wr.bytes", b.WriteBytes)
	s.put(prefix+"wr.times", uint64(b.WriteTime))
	s.put(prefix+"fl.reqs", b.FlushOps)
	s.put(prefix+"fl.times", uint64(b.FlushTime))
	s.put(prefix+"allocation", b.Allocation)
	s.put(prefix+"capacity", b.Capacity)
	s.put(prefix+"physical", b.Physical)
}
