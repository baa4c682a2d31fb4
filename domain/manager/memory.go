package manager

import (
	"context"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// SetMemory sets how many KiB the guest shall have: the balloon's target of a running domain, <currentMemory> of the
// configuration. With MemMaximum it sets <memory>, which only the configuration has.
func (d *Domain) SetMemory(ctx context.Context, kib uint64, flags Affect) error {
	if err := checkFlags(flags, memoryFlagsKnown, "qemuDomainSetMemoryFlags"); err != nil {
		return err
	}
	if flags&MemMaximum != 0 {
		return d.setMaxMemory(ctx, kib, flags&^MemMaximum)
	}
	edit := func(def *domain.Definition) (*domain.Definition, error) {
		if kib > def.Memory() {
			return nil, virterr.New(virterr.InvalidArg, "cannot set memory higher than max memory")
		}
		return def.SetMemory(kib)
	}
	return d.change(ctx, "set-memory", flags, edit, func(ctx context.Context, r *run) error {
		if b := r.live.View().Devices.MemBalloon; b == nil || b.Model == "none" {
			return virterr.New(virterr.OperationInvalid,
				"Unable to change memory of active domain without the balloon device and guest OS balloon driver")
		}
		return r.inst.SetBalloon(ctx, kib*1024)
	})
}

func (d *Domain) setMaxMemory(ctx context.Context, kib uint64, flags Affect) error {
	live, _, err := d.targets(flags)
	if err != nil {
		return err
	}
	if live {
		return virterr.New(virterr.OperationInvalid, "cannot resize the maximum memory on an active domain")
	}
	return d.change(ctx, "set-max-memory", AffectConfig, func(def *domain.Definition) (*domain.Definition, error) {
		return def.SetMaxMemory(kib)
	}, nil)
}

// MemoryStat is one value of MemoryStats: libvirt's tag (virDomainMemoryStatTags) and the value, sizes in KiB.
type MemoryStat struct {
	Tag   int32
	Value uint64
}

// Tags of MemoryStat.
const (
	MemSwapIn     int32 = 0
	MemSwapOut    int32 = 1
	MemMajorFault int32 = 2
	MemMinorFault int32 = 3
	MemUnused     int32 = 4
	MemAvailable  int32 = 5
	MemActual     int32 = 6
	MemRSS        int32 = 7
	MemUsable     int32 = 8
	MemLastUpdate int32 = 9
	MemDiskCaches int32 = 10
	MemHugeAlloc  int32 = 11
	MemHugeFail   int32 = 12
)

// memoryTags maps the balloon's statistics to libvirt's, in the order virsh prints them. Sizes are divided by unit.
var memoryTags = []struct {
	stat driver.MemoryStat
	tag  int32
	unit uint64
}{
	{driver.StatSwapIn, MemSwapIn, 1024},
	{driver.StatSwapOut, MemSwapOut, 1024},
	{driver.StatMajorFaults, MemMajorFault, 1},
	{driver.StatMinorFaults, MemMinorFault, 1},
	{driver.StatFree, MemUnused, 1024},
	{driver.StatTotal, MemAvailable, 1024},
	{driver.StatAvailable, MemUsable, 1024},
	{driver.StatDiskCaches, MemDiskCaches, 1024},
	{driver.StatHugeAlloc, MemHugeAlloc, 1},
	{driver.StatHugeFail, MemHugeFail, 1},
}

// MemoryStats returns what is known about the guest's memory.
func (d *Domain) MemoryStats(ctx context.Context) ([]MemoryStat, error) {
	inst, _, err := d.engine()
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	s, err := inst.MemoryStats(ctx)
	if err != nil {
		return nil, err
	}
	return memoryValues(s), nil
}

// memoryValues are what MemoryStats returns, in the order virsh prints them.
func memoryValues(s driver.MemoryStats) []MemoryStat {
	list := []MemoryStat{{MemActual, s.Actual / 1024}}
	for _, t := range memoryTags {
		if v, ok := s.Guest[t.stat]; ok {
			list = append(list, MemoryStat{t.tag, v / t.unit})
		}
	}
	if !s.LastUpdate.IsZero() {
		list = append(list, MemoryStat{MemLastUpdate, uint64(s.LastUpdate.Unix())})
	}
	if s.RSS != 0 {
		list = append(list, MemoryStat{MemRSS, s.RSS / 1024})
	}
	return list
}

// SetMemoryStatsPeriod makes the balloon collect statistics every so many seconds; 0 is on demand only.
func (d *Domain) SetMemoryStatsPeriod(ctx context.Context, seconds int, flags Affect) error {
	if err := checkFlags(flags, affectBoth, "qemuDomainSetMemoryStatsPeriod"); err != nil {
		return err
	}
	if seconds < 0 {
		return virterr.New(virterr.InvalidArg, "invalid value '%d' for memory statistics period: it is seconds, from 0", seconds)
	}
	edit := func(def *domain.Definition) (*domain.Definition, error) { return def.SetMemoryStatsPeriod(seconds) }
	return d.change(ctx, "set-memory-stats-period", flags, edit, func(ctx context.Context, r *run) error {
		return r.inst.SetStatsPeriod(ctx, seconds)
	})
}
