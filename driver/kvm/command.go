package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/qmp"
	"virtd/virterr"
)

// execute runs a monitor command.
func (i *instance) execute(ctx context.Context, command string, args, result any) error {
	c, err := i.monitor()
	if err != nil {
		return err
	}
	return i.explain(command, c.Execute(ctx, command, args, result))
}

// monitor returns the connection to the engine.
func (i *instance) monitor() (*qmp.Client, error) {
	if i.proc.Ended() {
		return nil, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.client == nil {
		return nil, virterr.New(virterr.OperationFailed, "the monitor of domain '%s' does not answer (engine pid %d)", i.name, i.rec.PID)
	}
	return i.client, nil
}

// explain gives a failure of a command the code and text that clients know.
func (i *instance) explain(command string, err error) error {
	var refused *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Class == "CommandNotFound":
		return virterr.New(virterr.OperationUnsupported, "the engine of domain '%s' has no command %s", i.name, command)
	case errors.As(err, &refused):
		return virterr.New(virterr.InternalError, "unable to execute QEMU command '%s': %s", command, printable(refused.Desc))
	case errors.Is(err, context.DeadlineExceeded):
		return virterr.New(virterr.OperationTimeout, "domain '%s' did not answer %s in time (engine pid %d)", i.name, command, i.rec.PID)
	case i.proc.Ended():
		return virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	return virterr.New(virterr.OperationFailed, "command %s to domain '%s': %w", command, i.name, err)
}

// Status implements driver.Instance.
func (i *instance) Status(ctx context.Context) (driver.Status, error) {
	var s struct {
		State  driver.MachineState `json:"state"`
		Reason string              `json:"reason"`
	}
	if err := i.execute(ctx, "x-virtd-status", nil, &s); err != nil {
		return driver.Status{}, err
	}
	return driver.Status{State: s.State, Reason: s.Reason}, nil
}

// Cont implements driver.Instance.
func (i *instance) Cont(ctx context.Context) error { return i.execute(ctx, "cont", nil, nil) }

// Stop implements driver.Instance.
func (i *instance) Stop(ctx context.Context) error { return i.execute(ctx, "stop", nil, nil) }

// Powerdown implements driver.Instance.
func (i *instance) Powerdown(ctx context.Context) error {
	return i.execute(ctx, "system_powerdown", nil, nil)
}

// Reset implements driver.Instance.
func (i *instance) Reset(ctx context.Context) error { return i.execute(ctx, "system_reset", nil, nil) }

// SetPoweroffAction implements driver.Instance.
func (i *instance) SetPoweroffAction(ctx context.Context, reset bool) error {
	action := "poweroff"
	if reset {
		action = "reset"
	}
	return i.execute(ctx, "x-virtd-set-action", map[string]string{"shutdown": action}, nil)
}

// Quit implements driver.Instance.
func (i *instance) Quit(ctx context.Context) error {
	i.leaving.Store(true)
	err := i.execute(ctx, "x-virtd-quit", map[string]string{"reason": "destroyed"}, nil)
	if virterr.Is(err, virterr.OperationUnsupported) {
		err = i.execute(ctx, "quit", nil, nil)
	}
	if errors.Is(err, qmp.ErrClosed) { // it left before it answered
		return nil
	}
	return err
}

// Kill implements driver.Instance.
func (i *instance) Kill() error {
	i.killed.Store(true)
	if err := i.proc.Kill(); err != nil {
		return virterr.New(virterr.SystemError, "cannot kill the engine of domain '%s' (pid %d): %w", i.name, i.rec.PID, err)
	}
	return nil
}

// SetBalloon implements driver.Instance.
func (i *instance) SetBalloon(ctx context.Context, bytes uint64) error {
	return i.execute(ctx, "balloon", map[string]uint64{"value": bytes}, nil)
}

// SetStatsPeriod implements driver.Instance.
func (i *instance) SetStatsPeriod(ctx context.Context, seconds int) error {
	return i.execute(ctx, "x-virtd-balloon-stats-period", map[string]int{"seconds": seconds}, nil)
}

// ResizeDisk implements driver.Instance.
func (i *instance) ResizeDisk(ctx context.Context, alias string, bytes uint64) error {
	return i.execute(ctx, "block_resize", map[string]any{"device": alias, "size": bytes}, nil)
}

// SetIOTune implements driver.Instance.
func (i *instance) SetIOTune(ctx context.Context, alias string, t domain.IOTune) error {
	client, err := i.monitor()
	if err != nil {
		return err
	}
	args := map[string]any{"id": alias, "throttle": planThrottle(t)}
	return i.explain(commandThrottle, client.Execute(ctx, "x-virtd-set-throttle", args, nil))
}

// SendKey implements driver.Instance.
func (i *instance) SendKey(ctx context.Context, keys []uint16, hold time.Duration) error {
	client, err := i.monitor()
	if err != nil {
		return err
	}
	args := map[string]any{"keys": keys, "hold-ms": hold.Milliseconds()}
	return i.explain(commandSendKey, client.Execute(ctx, "x-virtd-send-key", args, nil))
}

// SetLink implements driver.Instance.
func (i *instance) SetLink(ctx context.Context, alias string, up bool) error {
	return i.execute(ctx, "set_link", map[string]any{"name": alias, "up": up}, nil)
}

// InjectNMI implements driver.Instance.
func (i *instance) InjectNMI(ctx context.Context) error {
	return i.execute(ctx, "inject-nmi", nil, nil)
}

// Monitor implements driver.Instance.
func (i *instance) Monitor(ctx context.Context, command string, hmp bool) (string, error) {
	if hmp {
		var out string
		err := i.execute(ctx, "human-monitor-command", map[string]string{"command-line": command}, &out)
		return out, err
	}
	var probe map[string]json.RawMessage
	if err := json.Unmarshal([]byte(command), &probe); err != nil {
		return "", virterr.New(virterr.InvalidArg, "cannot parse the monitor command as a JSON object: %w", err)
	}
	c, err := i.monitor()
	if err != nil {
		return "", err
	}
	out, err := c.Raw(ctx, command)
	return out, i.explain("as given", err)
}

// Record implements driver.Instance.
func (i *instance) Record() json.RawMessage {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	text, err := i.rec.encode()
	if err != nil {
		i.d.log.Error("cannot record an engine", "domain", i.name, "err", err)
	}
	return text
}

// Runtime implements driver.Instance.
func (i *instance) Runtime() domain.Runtime {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	return i.rec.Runtime
}

// PID implements driver.Instance.
func (i *instance) PID() int { return i.rec.PID }

// Warnings implements driver.Instance.
func (i *instance) Warnings() []string {
	i.recMu.Lock()
	defer i.recMu.Unlock()
	list := slices.Clip(i.rec.Warnings)
	for _, alias := range slices.Sorted(maps.Keys(i.rec.Refused)) {
		list = append(list, fmt.Sprintf("packets of interface %s go through the engine, not through vhost-net: %s", alias, i.rec.Refused[alias]))
	}
	return list
}
