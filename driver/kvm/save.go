package kvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/qmp"
	"virtd/hypervisor"
	"virtd/virterr"
)

// restoreTime bounds a start from a saved state: RAM is read before the engine answers.
const restoreTime = time.Hour

// incomingFile is the name of the saved state among an engine's descriptors.
const incomingFile hypervisor.FileName = "incoming"

// incoming gives the engine a saved state to start from.
func (s *starter) incoming(o *opened, f *os.File) error {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot hand '%s' to the engine: %w", f.Name(), err)
	}
	o.files = append(o.files, os.NewFile(uintptr(fd), f.Name()))
	s.cfg.Incoming, s.cfg.Files = incomingFile, append(s.cfg.Files, incomingFile)
	return nil
}

// waitRestored waits until the engine has taken the whole saved state over: only then may the state go. The monitor
// answers before; this command waits for the vCPUs.
func (i *instance) waitRestored(ctx context.Context) error {
	return i.execute(ctx, "x-virtd-hello", map[string]int{"version": 1}, nil)
}

// saved is a guest that stands still. Its connection is what the engine knows that by.
type saved struct {
	i      *instance
	client *qmp.Client
}

// connectFor opens a monitor connection of its own for a long command.
func (i *instance) connectFor(ctx context.Context) (*qmp.Client, error) {
	if i.proc.Ended() {
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	dctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := qmp.Dial(dctx, filepath.Join(i.rec.Dir, monitorSocket), func(qmp.Event) {})
	if err != nil {
		return nil, virterr.New(virterr.OperationFailed, "domain '%s': %w", i.name, err)
	}
	return c, nil
}

// explainLong is explain for a long command, whose failures are mostly not about the command.
func (i *instance) explainLong(ctx context.Context, what, command string, err error) error {
	var refused *qmp.Error
	switch {
	case ctx.Err() != nil:
		return virterr.New(virterr.OperationAborted, "%s of domain '%s' was ended early: %w", what, i.name, context.Cause(ctx))
	case errors.As(err, &refused) && refused.Class != "CommandNotFound":
		return virterr.New(virterr.OperationFailed, "%s", printable(refused.Desc))
	}
	return i.explain(command, err)
}

// Save implements driver.Instance.
func (i *instance) Save(ctx context.Context, f *os.File, live *domain.Definition) (driver.Saved, error) {
	c, err := i.connectFor(ctx)
	if err != nil {
		return nil, err
	}
	args := map[string]any{"devices": append([]string{}, live.LiveAliases()...)} // none is not the same as not said
	if live.CheckVCPUHotplug() == nil {                                          // which engines of before do not have
		args["cpus"] = live.OnlineVCPUs()
	}
	if err := c.ExecuteFiles(ctx, "x-virtd-save", args, []*os.File{f}, nil); err != nil {
		c.Close() // which ends a save under way
		return nil, i.explainLong(ctx, "save", "x-virtd-save", err)
	}
	return &saved{i, c}, nil
}

// Quit implements driver.Saved.
func (s *saved) Quit(ctx context.Context) error {
	defer s.client.Close()
	if err := s.client.Execute(ctx, "x-virtd-save-commit", nil, nil); err != nil {
		return s.i.explain("x-virtd-save-commit", err)
	}
	err := s.client.Execute(ctx, "x-virtd-quit", map[string]string{"reason": driver.SavedDetail}, nil)
	if errors.Is(err, qmp.ErrClosed) { // it left before it answered
		return nil
	}
	return s.i.explain("x-virtd-quit", err)
}

// Resume implements driver.Saved.
func (s *saved) Resume(ctx context.Context) error {
	defer s.client.Close()
	return s.i.explain("cont", s.client.Execute(ctx, "cont", nil, nil))
}

// Dump implements driver.Instance.
func (i *instance) Dump(ctx context.Context, f *os.File, live bool) error {
	c, err := i.connectFor(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.ExecuteFiles(ctx, "x-virtd-dump", map[string]bool{"live": live}, []*os.File{f}, nil); err != nil {
		return i.explainLong(ctx, "dump", "x-virtd-dump", err)
	}
	return nil
}

// Progress implements driver.Instance.
func (i *instance) Progress(ctx context.Context) (driver.Progress, error) {
	var p struct {
		Total     uint64 `json:"total"`
		Processed uint64 `json:"processed"`
		Written   uint64 `json:"written"`
	}
	err := i.execute(ctx, "x-virtd-job", nil, &p)
	return driver.Progress{Total: p.Total, Processed: p.Processed, Written: p.Written}, err
}
