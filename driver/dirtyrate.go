package driver

import "time"

// DirtyRate is how fast a guest dirtied its memory when that was last measured, or is measured now.
type DirtyRate struct {
	Status DirtyRateStatus
	Mode   DirtyRateMode
	Start  time.Time     // zero before the first
	Period time.Duration // whole seconds
	Rate   int64         // MiB for each second, once measured
}

// DirtyRateStatus is how far a measurement is.
type DirtyRateStatus string

// The statuses of a measurement, in QMP's words.
const (
	DirtyRateUnstarted DirtyRateStatus = "unstarted" // or the last one failed: the engine's log says why
	DirtyRateMeasuring DirtyRateStatus = "measuring"
	DirtyRateMeasured  DirtyRateStatus = "measured"
)

// DirtyRateMode is how a rate is measured.
type DirtyRateMode string

// The modes, in QMP's words.
const (
	DirtyRateSampling DirtyRateMode = "page-sampling"
	DirtyRateBitmap   DirtyRateMode = "dirty-bitmap"
	DirtyRateRing     DirtyRateMode = "dirty-ring"
)
