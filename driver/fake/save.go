package fake

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"virtd/domain"
	"virtd/driver"
	"virtd/virterr"
)

// stateHead begins the state of a fake machine; the balloon's bytes and what the machine did follow.
const stateHead = "fake machine "

// read makes the engine what a saved state says.
func (e *Engine) read(f *os.File) error {
	text, err := io.ReadAll(f)
	rest, ok := strings.CutPrefix(string(text), stateHead)
	if err == nil && ok {
		_, err = fmt.Sscan(rest, &e.actual)
	}
	if err != nil || !ok {
		return virterr.New(virterr.InternalError, "the engine ended during start: restore the saved machine: the saved state is cut off")
	}
	return nil
}

// Saved implements driver.Saved.
type saved struct {
	i   *instance
	f   *os.File
	at  int64
	run bool
}

// Save implements driver.Instance.
func (i *instance) Save(ctx context.Context, f *os.File, live *domain.Definition) (driver.Saved, error) {
	if err := i.ask(ctx, "Save"); err != nil {
		return nil, err
	}
	has := i.e.definition()
	if aliases := live.LiveAliases(); !slices.Equal(has.LiveAliases(), aliases) {
		return nil, virterr.New(virterr.OperationFailed, "save the machine: it has the devices %v and not %v", has.LiveAliases(), aliases)
	}
	if vcpus := live.OnlineVCPUs(); !slices.Equal(has.OnlineVCPUs(), vcpus) {
		return nil, virterr.New(virterr.OperationFailed, "save the machine: it has the vCPUs %v and not %v", has.OnlineVCPUs(), vcpus)
	}
	i.e.mu.Lock()
	run, actual := i.e.state == driver.MachineRunning, i.e.actual
	i.e.state = driver.MachinePaused
	i.e.mu.Unlock()
	s := &saved{i: i, f: f, run: run}
	if run {
		i.e.Emit(driver.Stopped{Reason: driver.StoppedForSave})
	}
	err := i.ask(ctx, "SaveWrites")
	if err == nil {
		if s.at, err = f.Seek(0, io.SeekCurrent); err == nil {
			_, err = fmt.Fprintf(f, "%s%d\n", stateHead, actual)
		}
	}
	if err != nil {
		s.goOn()
		if ctx.Err() != nil {
			return nil, virterr.New(virterr.OperationAborted, "save was ended early: %w", context.Cause(ctx))
		}
		return nil, virterr.New(virterr.OperationFailed, "save the machine: %w", err)
	}
	return s, nil
}

func (s *saved) goOn() {
	if s.run {
		s.i.e.setState(driver.MachineRunning)
		s.i.e.Emit(driver.Resumed{})
	}
}

// Quit implements driver.Saved.
func (s *saved) Quit(ctx context.Context) error {
	if err := s.i.ask(ctx, "SavedQuit"); err != nil {
		return err
	}
	s.i.e.Emit(driver.Shutdown{Reason: "host-qmp-quit"})
	s.i.e.Exit(driver.ExitQuit, driver.SavedDetail)
	return nil
}

// Resume implements driver.Saved.
func (s *saved) Resume(context.Context) error {
	if err := s.f.Truncate(s.at); err != nil {
		return err
	}
	s.goOn()
	return nil
}

// Dump implements driver.Instance.
func (i *instance) Dump(ctx context.Context, f *os.File, live bool) error {
	if err := i.ask(ctx, "Dump"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f, "fake core, live %v\n", live)
	return err
}

// Progress implements driver.Instance.
func (i *instance) Progress(ctx context.Context) (driver.Progress, error) {
	if err := i.ask(ctx, "Progress"); err != nil {
		return driver.Progress{}, err
	}
	return driver.Progress{Total: 64 << 20, Processed: 16 << 20, Written: 1 << 20}, nil
}
