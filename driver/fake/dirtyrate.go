package fake

import (
	"context"
	"time"

	"virtd/driver"
	"virtd/virterr"
)

func (i *instance) StartDirtyRate(ctx context.Context, period time.Duration, mode driver.DirtyRateMode) error {
	if err := i.ask(ctx, "StartDirtyRate"); err != nil {
		return err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	if i.e.rate.Status == driver.DirtyRateMeasuring {
		return virterr.New(virterr.InternalError, "unable to execute QEMU command 'calc-dirty-rate': the dirty rate is already being measured.")
	}
	i.e.rate = driver.DirtyRate{Status: driver.DirtyRateMeasuring, Mode: mode, Start: time.Unix(1700000000, 0), Period: period}
	return nil
}

func (i *instance) DirtyRate(ctx context.Context) (driver.DirtyRate, error) {
	if err := i.ask(ctx, "DirtyRate"); err != nil {
		return driver.DirtyRate{}, err
	}
	i.e.mu.Lock()
	defer i.e.mu.Unlock()
	return i.e.rate, nil
}

// Measure ends the measurement under way, if there is one, with a rate in MiB/s; with -1 it failed.
func (e *Engine) Measure(rate int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rate.Status != driver.DirtyRateMeasuring {
		return false
	}
	e.rate.Status, e.rate.Rate = driver.DirtyRateMeasured, rate
	if rate < 0 {
		e.rate.Status, e.rate.Rate = driver.DirtyRateUnstarted, 0
	}
	return true
}
