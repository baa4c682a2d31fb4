package daemon

import (
	"context"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/driver"
	"virtd/rpc"
	"virtd/virterr"
)

// Flags of START_DIRTY_RATE_CALC (virDomainDirtyRateCalcFlags); page sampling is 0.
const (
	dirtyRateBitmap = uint32(libvirt.DomainDirtyrateModeDirtyBitmap)
	dirtyRateRing   = uint32(libvirt.DomainDirtyrateModeDirtyRing)
)

// Limits of the period, in seconds.
const (
	minDirtyRatePeriod = 1
	maxDirtyRatePeriod = 60
)

func (d *Daemon) domainStartDirtyRateCalc(ctx context.Context, _ *rpc.Call, a *libvirt.DomainStartDirtyRateCalcArgs) (*none, error) {
	if err := onlyFlags(a.Flags, dirtyRateBitmap|dirtyRateRing, "qemuDomainStartDirtyRateCalc"); err != nil {
		return nil, err
	}
	mode := driver.DirtyRateSampling
	switch a.Flags {
	case dirtyRateBitmap | dirtyRateRing:
		return nil, virterr.New(virterr.InvalidArg, "Flags 'VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_BITMAP' and 'VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_RING' are mutually exclusive")
	case dirtyRateBitmap:
		mode = driver.DirtyRateBitmap
	case dirtyRateRing:
		mode = driver.DirtyRateRing
	}
	if a.Seconds < minDirtyRatePeriod || a.Seconds > maxDirtyRatePeriod {
		return nil, virterr.New(virterr.InvalidArg, "seconds=%d is invalid, please choose value within [%d, %d].", a.Seconds, minDirtyRatePeriod, maxDirtyRatePeriod)
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.StartDirtyRate(ctx, time.Duration(a.Seconds)*time.Second, mode)
}
