package kvm

import (
	"context"
	"time"

	"virtd/driver"
)

// StartDirtyRate implements driver.Instance.
func (i *instance) StartDirtyRate(ctx context.Context, period time.Duration, mode driver.DirtyRateMode) error {
	args := map[string]any{"calc-time": int64(period / time.Second), "mode": mode}
	return i.execute(ctx, "calc-dirty-rate", args, nil)
}

// DirtyRate implements driver.Instance.
func (i *instance) DirtyRate(ctx context.Context) (driver.DirtyRate, error) {
	var reply struct {
		Status driver.DirtyRateStatus `json:"status"`
		Mode   driver.DirtyRateMode   `json:"mode"`
		Start  int64                  `json:"start-time"` // seconds since 1970
		Time   int64                  `json:"calc-time"`  // seconds
		Rate   int64                  `json:"dirty-rate"` // MiB/s
	}
	if err := i.execute(ctx, "query-dirty-rate", nil, &reply); err != nil {
		return driver.DirtyRate{}, err
	}
	r := driver.DirtyRate{Status: reply.Status, Mode: reply.Mode, Period: time.Duration(reply.Time) * time.Second, Rate: reply.Rate}
	if reply.Start != 0 {
		r.Start = time.Unix(reply.Start, 0)
	}
	return r, nil
}
