package manager

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"virtd/virterr"
)

// jobSlot is the place for a domain's one modifying job. Its zero value is free. Most domains are never changed, so it has
// no channel until somebody waits.
type jobSlot struct {
	current atomic.Pointer[job]

	mu    sync.Mutex
	taken bool
	queue []chan struct{} // of those who wait, the first first; each gets the slot by its channel's end
}

// take takes the slot if it is free. Otherwise it returns the channel that is closed when the slot is the caller's.
func (s *jobSlot) take() (wait chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.taken {
		s.taken = true
		return nil
	}
	wait = make(chan struct{})
	s.queue = append(s.queue, wait)
	return wait
}

// free gives the slot to the next.
func (s *jobSlot) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.taken, s.queue = false, nil
		return
	}
	close(s.queue[0])
	s.queue = s.queue[1:]
}

// leave gives up waiting. What was given to the caller meanwhile goes to the next.
func (s *jobSlot) leave(wait chan struct{}) {
	s.mu.Lock()
	i := slices.Index(s.queue, wait)
	if i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		s.free()
	}
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
	if err := d.waitForJob(ctx, what); err != nil {
		return nil, err
	}
	j := &job{what: what, since: time.Now(), slot: &d.jobs}
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	j.unhook = context.AfterFunc(d.m.ctx, func() { j.cancel(errors.New("virtd is shutting down")) })
	d.jobs.current.Store(j)
	if d.isRemoved() {
		j.end()
		return nil, d.notFound()
	}
	return j, nil
}

func (d *Domain) waitForJob(ctx context.Context, what string) error {
	wait := d.jobs.take()
	if wait == nil {
		return nil
	}
	timer := time.NewTimer(d.m.cfg.JobTimeout)
	defer timer.Stop()
	var err error
	select {
	case <-wait:
		return nil
	case <-timer.C:
		err = virterr.New(virterr.OperationTimeout, "cannot acquire state change lock of domain '%s' (%s)", d.Name(), d.jobs.holder())
	case <-ctx.Done():
		err = virterr.New(virterr.OperationAborted, "%s of domain '%s' gave up waiting (%s): %w", what, d.Name(), d.jobs.holder(), ctx.Err())
	case <-d.m.ctx.Done():
		err = virterr.New(virterr.OperationAborted, "%s of domain '%s': virtd is shutting down", what, d.Name())
	}
	d.jobs.leave(wait)
	return err
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
	j.slot.free()
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
