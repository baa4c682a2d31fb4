package manager

import (
	"context"
	"time"

	"virtd/driver"
	"virtd/virterr"
)

// StartDirtyRate begins to measure how fast the guest dirties its memory, over whole seconds, and does not wait: Stats tells how
// that went.
func (d *Domain) StartDirtyRate(ctx context.Context, period time.Duration, mode driver.DirtyRateMode) error {
	return d.withEngine(ctx, "dirty rate calculation", func(ctx context.Context, inst driver.Instance) error {
		if mode == driver.DirtyRateRing { // no engine makes the ring
			return virterr.New(virterr.OperationUnsupported, "dirty-ring calculation mode requires dirty-ring feature enabled.")
		}
		return inst.StartDirtyRate(ctx, period, mode)
	})
}

// dirtyRateStatus are libvirt's numbers (virDomainDirtyRateStatus).
var dirtyRateStatus = map[driver.DirtyRateStatus]int32{
	driver.DirtyRateUnstarted: 0, driver.DirtyRateMeasuring: 1, driver.DirtyRateMeasured: 2,
}

func (s *statsList) dirtyRate(ctx context.Context, inst driver.Instance) {
	if inst == nil {
		return
	}
	r, err := inst.DirtyRate(ctx)
	if err != nil {
		return
	}
	start := int64(0)
	if !r.Start.IsZero() {
		start = r.Start.Unix()
	}
	s.put("dirtyrate.calc_status", dirtyRateStatus[r.Status])
	s.put("dirtyrate.calc_start_time", start)
	s.put("dirtyrate.calc_period", int32(r.Period/time.Second))
	s.put("dirtyrate.calc_mode", string(r.Mode))
	if r.Status == driver.DirtyRateMeasured {
		s.put("dirtyrate.megabytes_per_second", r.Rate)
	}
}
