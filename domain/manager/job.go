package manager

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"virtd/virterr"
)

// jobSlot is the place for a domain's one modifying job.
type jobSlot struct {
	token   chan struct{} // holds one element while there is no job
	current atomic.Pointer[job]
}

func newJobSlot() *jobSlot {
	s := &jobSlot{token: make(chan struct{}, 1)}
	s.token <- struct{}{}
	return s
}

// job is the right to change one domain. Its context ends with the caller's, with the Manager, or when a destroy wants
// the domain.
type job struct {
	what   string
	since  time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	unhook func() bool
	slot   *jobSlot
}

// errDestroyed is the cause of a job's end when a destroy takes the domain from it.
var errDestroyed = errors.New("the domain is being destroyed")

// begin waits for the domain's job, at most Config.JobTimeout.
func (d *Domain) begin(ctx context.Context, what string) (*job, error) {
	timer := time.NewTimer(d.m.cfg.JobTimeout)
	defer timer.Stop()
	select {
	case <-d.jobs.token:
	case <-timer.C:
		return nil, virterr.New(virterr.OperationTimeout, "cannot acquire state change lock of domain '%s' (%s)", d.Name(), d.jobs.holder())
	case <-ctx.Done():
		return nil, virterr.New(virterr.OperationAborted, "%s of domain '%s' gave up waiting (%s): %w", what, d.Name(), d.jobs.holder(), ctx.Err())
	case <-d.m.ctx.Done():
		return nil, virterr.New(virterr.OperationAborted, "%s of domain '%s': virtd is shutting down", what, d.Name())
	}
	j := &job{what: what, since: time.Now(), slot: d.jobs}
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	j.unhook = context.AfterFunc(d.m.ctx, func() { j.cancel(errors.New("virtd is shutting down")) })
	d.jobs.current.Store(j)
	if d.isRemoved() {
		j.end()
		return nil, d.notFound()
	}
	return j, nil
}

// outcome is err, or what a client shall hear when a destroy took the domain from this job.
func (j *job) outcome(d *Domain, err error) error {
	if err != nil && errors.Is(context.Cause(j.ctx), errDestroyed) {
		return virterr.New(virterr.OperationAborted, "%s of domain '%s': it was destroyed meanwhile", j.what, d.Name())
	}
	return err
}

// end gives the job back. It must be called once.
func (j *job) end() {
	j.slot.current.Store(nil)
	j.unhook()
	j.cancel(nil)
	j.slot.token <- struct{}{}
}

// holder describes the job in progress, for errors.
func (s *jobSlot) holder() string {
	j := s.current.Load()
	if j == nil {
		return "held by nobody now"
	}
	return "held by '" + j.what + "' for " + time.Since(j.since).Round(time.Second).String()
}

// interrupt makes the job in progress end early, for destroy.
func (s *jobSlot) interrupt() {
	if j := s.current.Load(); j != nil {
		j.cancel(errDestroyed)
	}
}
