package dirtyrate

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"virtd/hypervisor/memory"
)

// Mode is how a rate is measured.
type Mode string

// The modes, by the names that QMP has for them (DirtyRateMeasureMode).
const (
	PageSampling Mode = "page-sampling"
	DirtyBitmap  Mode = "dirty-bitmap"
	DirtyRing    Mode = "dirty-ring"
)

// Status is how far a measurement is.
type Status string

// What a status can be, by the names that QMP has (DirtyRateStatus).
const (
	Unstarted Status = "unstarted" // nothing was measured, or the last measurement failed
	Measuring Status = "measuring"
	Measured  Status = "measured"
)

// Limits of a Request, which are QEMU's.
const (
	MinPeriod = 50 * time.Millisecond
	MaxPeriod = time.Minute

	MinSamplePages     = 128
	MaxSamplePages     = 16384
	DefaultSamplePages = 512
)

// ErrMeasuring is returned by Start while something is measured.
var ErrMeasuring = errors.New("the dirty rate is already being measured.") // QEMU's text

// Request is a measurement to make.
type Request struct {
	Mode   Mode          // "" is PageSampling
	Period time.Duration // MinPeriod to MaxPeriod
	// SamplePages is how many pages of each GiB are looked at, MinSamplePages to MaxSamplePages; 0 is DefaultSamplePages. It
	// is for PageSampling.
	SamplePages int
}

// check completes r. The texts are QEMU's, which clients show to their users.
func (r *Request) check() error {
	if r.Period < MinPeriod || r.Period > MaxPeriod {
		return fmt.Errorf("Calculation time is out of range [%dms, %dms].", MinPeriod.Milliseconds(), MaxPeriod.Milliseconds())
	}
	if r.Mode == "" {
		r.Mode = PageSampling
	}
	switch r.Mode {
	case PageSampling:
		if r.SamplePages == 0 {
			r.SamplePages = DefaultSamplePages
		}
		if r.SamplePages < MinSamplePages || r.SamplePages > MaxSamplePages {
			return fmt.Errorf("sample-pages is out of range[%d, %d].", MinSamplePages, MaxSamplePages)
		}
		return nil
	case DirtyBitmap:
		if r.SamplePages != 0 {
			return errors.New("sample-pages is used only in page-sampling mode")
		}
		return nil
	case DirtyRing:
		return fmt.Errorf("mode %s is not enabled, use other method instead.", r.Mode)
	}
	return fmt.Errorf("Parameter 'mode' does not accept value '%s'", r.Mode)
}

// Result is the last measurement, or the one under way.
type Result struct {
	Status Status
	Mode   Mode
	Start  time.Time     // zero before the first
	Period time.Duration // asked for; once Measured, what it took, if that is more
	// SamplePages is how many pages of each GiB are looked at.
	SamplePages int
	// Rate is in bytes for each second, in whole pages, once Measured.
	Rate uint64
}

// Log is the record of what was written to RAM: dirtylog.Tracker.
type Log interface {
	Start() error
	Read(visit func(gpa uint64, bitmap []uint64)) error
	Stop() error
}

// Meter measures the dirty rate of one guest. Its methods are safe for concurrent use.
type Meter struct {
	mem  *memory.Memory
	log  Log
	logf func(format string, args ...any)
	work sync.WaitGroup

	mu       sync.Mutex
	starting bool // somebody is in Start
	last     Result
	closed   chan struct{} // closed by Close
}

// New returns a meter for a guest with that RAM and record. logf takes why a measurement failed.
func New(mem *memory.Memory, log Log, logf func(format string, args ...any)) *Meter {
	return &Meter{mem: mem, log: log, logf: logf, closed: make(chan struct{}), last: Result{Status: Unstarted, Mode: PageSampling}}
}

// Result returns the last measurement, or the one under way.
func (m *Meter) Result() Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// Start begins to measure; Result tells when it is done. It fails with ErrMeasuring while something is measured, and when the
// mode cannot tell what was written; the last result then stays.
func (m *Meter) Start(r Request) error {
	if err := m.reserve(&r); err != nil {
		return err
	}
	defer m.work.Done()
	measure, err := m.sample, error(nil)
	if r.Mode == DirtyBitmap {
		measure, err = m.count, m.log.Start() // without mu: devices of other processes have their time to answer
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.starting = false
	if err != nil {
		return err
	}
	begun := Result{Status: Measuring, Mode: r.Mode, Start: time.Now(), Period: r.Period, SamplePages: r.SamplePages}
	m.last = begun
	m.work.Go(func() { m.finish(begun, measure) })
	return nil
}

// reserve completes r and takes the place of the one measurement. Close waits from then on.
func (m *Meter) reserve(r *Request) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
		return errors.New("the machine has ended")
	default:
	}
	if m.starting || m.last.Status == Measuring {
		return ErrMeasuring
	}
	if err := r.check(); err != nil {
		return err
	}
	m.starting = true
	m.work.Add(1)
	return nil
}

// finish makes a measurement and publishes its result.
func (m *Meter) finish(r Result, measure func(*Result) (uint64, error)) {
	bytes, err := measure(&r)
	if err == nil {
		r.Status, r.Rate = Measured, bytes*1000/uint64(r.Period.Milliseconds())
	} else {
		r.Status = Unstarted
		select {
		case <-m.closed: // nobody waits for it
		default:
			m.logf("dirty rate (%s): %v", r.Mode, err)
		}
	}
	m.mu.Lock()
	m.last = r
	m.mu.Unlock()
}

// errEnded ends a measurement early.
var errEnded = errors.New("the machine ended meanwhile")

// wait returns when a measurement's time is over, and notes how long it really took.
func (m *Meter) wait(r *Result) error {
	t := time.NewTimer(r.Period - time.Since(r.Start))
	defer t.Stop()
	select {
	case <-t.C:
	case <-m.closed:
		return errEnded
	}
	r.Period = max(r.Period, time.Since(r.Start))
	return nil
}

// count returns how many bytes the pages have that were written, by the record that runs already.
func (m *Meter) count(r *Result) (uint64, error) {
	pages := 0
	err := m.wait(r)
	if err == nil {
		err = m.log.Read(func(_ uint64, bitmap []uint64) {
			for _, w := range bitmap {
				pages += bits.OnesCount64(w)
			}
		})
	}
	return uint64(pages) * memory.PageSize, errors.Join(err, m.log.Stop())
}

// Close ends a measurement early and refuses others: RAM goes away when it has returned.
func (m *Meter) Close() {
	m.mu.Lock()
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	m.mu.Unlock()
	m.work.Wait()
}
