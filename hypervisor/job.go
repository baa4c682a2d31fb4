package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"virtd/hypervisor/monitor"
)

// ErrJob is returned (wrapped) by a save or dump that another one is in the way of.
var ErrJob = errors.New("another save or dump of this machine is under way")

// longJob is the one save or dump that a machine does at a time. Its counters are read while it runs.
type longJob struct {
	mu      sync.Mutex
	kind    string // "" while there is none
	cancel  context.CancelFunc
	done    chan struct{}
	started time.Time

	total, looked, written atomic.Uint64 // bytes of RAM, of them looked at, and bytes that left
}

// begin takes the place. The returned context ends with ctx or stop; end gives the place back.
func (j *longJob) begin(ctx context.Context, kind string, total uint64) (context.Context, func(), error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.kind != "" {
		return nil, nil, fmt.Errorf("%s: %w", kind, ErrJob)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	j.kind, j.cancel, j.done, j.started = kind, cancel, done, time.Now()
	j.total.Store(total)
	j.looked.Store(0)
	j.written.Store(0)
	return ctx, func() {
		cancel()
		j.mu.Lock()
		j.kind = ""
		j.mu.Unlock()
		close(done)
	}, nil
}

// stop ends the job, if there is one, early.
func (j *longJob) stop() (done <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.kind != "" {
		j.cancel()
	}
	return j.done
}

// stopWait is stop, and waits until the job does nothing any more. The job may need no lock that the caller has.
func (j *longJob) stopWait() {
	if done := j.stop(); done != nil {
		<-done
	}
}

// Job implements monitor.Machine. The counters of a job that ended stay until the next.
func (c control) Job() monitor.Job {
	j := &c.job
	j.mu.Lock()
	defer j.mu.Unlock()
	out := monitor.Job{Kind: j.kind, Total: j.total.Load(), Processed: j.looked.Load(), Written: j.written.Load()}
	if j.kind != "" {
		out.Elapsed = time.Since(j.started).Milliseconds()
	}
	return out
}

// CancelJob implements monitor.Machine.
func (c control) CancelJob() { c.job.stop() }

// jobWriter writes for a job: it counts, and stops when the job shall.
type jobWriter struct {
	ctx context.Context
	job *longJob
	f   *os.File
}

// Write implements io.Writer.
func (w *jobWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, errCanceled
	}
	n, err := w.f.Write(p)
	w.job.written.Add(uint64(n))
	var path *os.PathError
	if errors.As(err, &path) { // the name of a descriptor says nothing to anybody
		err = path.Err
	}
	return n, err
}

// seen counts RAM that was looked at, for memory.Scan.
func (w *jobWriter) seen(n uint64) error {
	w.job.looked.Add(n)
	if w.ctx.Err() != nil {
		return errCanceled
	}
	return nil
}

var errCanceled = errors.New("canceled by client")
