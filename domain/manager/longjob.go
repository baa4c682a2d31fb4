package manager

import (
	"context"
	"errors"
	"time"

	"virtd/driver"
	"virtd/virterr"
)

// JobOperation is virDomainJobOperation.
type JobOperation int

// Operations of long jobs.
const (
	JobSave JobOperation = 2
	JobDump JobOperation = 8
)

// name is the operation as errors call it.
func (o JobOperation) name() string {
	if o == JobDump {
		return "domain core dump job"
	}
	return "domain save job"
}

// JobInfo is how far a long job is, or what became of it. The zero value is no job.
type JobInfo struct {
	Operation JobOperation // 0 for none
	Elapsed   time.Duration
	driver.Progress
	Ended    bool
	Failed   bool // ended, and not as it should
	Canceled bool // failed because a client said so
}

// longJob is a save or dump under way. It belongs to the domain's job, which it is part of.
type longJob struct {
	op      JobOperation
	inst    driver.Instance
	started time.Time
	cancel  context.CancelCauseFunc
}

// finishedLong is the last long job.
type finishedLong struct{ info JobInfo }

var errJobCanceled = errors.New("canceled by client")

// runLong runs f as the domain's long job, with a context that AbortJob ends too. It outlives the connection that asked for
// it, but not its own end of the domain.
func (d *Domain) runLong(j *job, op JobOperation, inst driver.Instance, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(j.ctx)
	defer cancel(nil)
	l := &longJob{op: op, inst: inst, started: time.Now(), cancel: cancel}
	d.mu.Lock()
	d.long = l
	d.mu.Unlock()
	err := f(ctx)
	canceled := err != nil && errors.Is(context.Cause(ctx), errJobCanceled)
	last := l.ask(d.m.ctx, d.m.cfg.CallTimeout)
	d.mu.Lock()
	last.Ended, last.Failed, last.Canceled = true, err != nil, canceled
	d.long, d.lastLong = nil, &finishedLong{last}
	d.mu.Unlock()
	if canceled {
		return virterr.New(virterr.OperationAborted, "%s: %w", op.name(), errJobCanceled)
	}
	return err
}

// ask returns what the engine says of the job; one that does not answer leaves the sizes 0.
func (l *longJob) ask(ctx context.Context, limit time.Duration) JobInfo {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	info := JobInfo{Operation: l.op, Elapsed: time.Since(l.started)}
	if p, err := l.inst.Progress(ctx); err == nil {
		info.Progress = p
	}
	return info
}

// JobInfo tells how far the save or dump under way is.
func (d *Domain) JobInfo(ctx context.Context) (JobInfo, error) {
	if _, _, err := d.engine(); err != nil {
		return JobInfo{}, err
	}
	d.mu.Lock()
	l := d.long
	d.mu.Unlock()
	if l == nil {
		return JobInfo{}, nil
	}
	return l.ask(ctx, d.m.cfg.CallTimeout), nil
}

// LastJob returns what became of the last save or dump, and forgets it unless keep.
func (d *Domain) LastJob(keep bool) JobInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lastLong == nil {
		return JobInfo{}
	}
	info := d.lastLong.info
	if !keep {
		d.lastLong = nil
	}
	return info
}

// AbortJob ends the save or dump under way; the guest goes on.
func (d *Domain) AbortJob() error {
	if _, _, err := d.engine(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.long == nil {
		return virterr.New(virterr.OperationInvalid, "no job is active on the domain")
	}
	d.long.cancel(errJobCanceled)
	return nil
}
