package manager

import (
	"context"
	"io"
	"sync"

	"virtd/domain"
	"virtd/virterr"
)

// consoleSession is one client's hold on a console. The zero connection is one that is being opened.
type consoleSession struct {
	d     *Domain
	alias string

	io.ReadWriter // set before the client gets the session

	mu     sync.Mutex
	closer io.Closer
	closed bool
}

// connect gives the session its connection, unless it was closed before it had one.
func (s *consoleSession) connect(rwc io.ReadWriteCloser) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.ReadWriter, s.closer = rwc, rwc
	return true
}

// Close ends the session and frees the console.
func (s *consoleSession) Close() error {
	s.d.mu.Lock()
	if s.d.consoles[s.alias] == s {
		delete(s.d.consoles, s.alias)
	}
	s.d.mu.Unlock()
	return s.shut()
}

// shut ends the session where the domain's list is taken care of.
func (s *consoleSession) shut() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.closer == nil {
		s.closed = true
		return nil
	}
	s.closed = true
	return s.closer.Close()
}

// closeConsoles ends every session. The caller holds d.mu.
func (d *Domain) closeConsoles() {
	for alias, s := range d.consoles {
		delete(d.consoles, alias)
		d.m.wg.Go(func() { _ = s.shut() })
	}
}

// OpenConsole connects to a serial port or console by its alias, or to the first one for "". A console has one session
// at a time; ConsoleForce ends the other one. Reading ends when the domain stops or somebody takes the console.
func (d *Domain) OpenConsole(alias string, flags ConsoleFlags) (io.ReadWriteCloser, error) {
	if err := checkFlags(flags, ConsoleForce|ConsoleSafe, "qemuDomainOpenConsole"); err != nil {
		return nil, err
	}
	inst, live, err := d.engine()
	if err != nil {
		return nil, err
	}
	if alias, err = consoleAlias(live, alias); err != nil {
		return nil, err
	}
	s := &consoleSession{d: d, alias: alias}
	d.mu.Lock()
	old := d.consoles[alias]
	if old != nil && flags&ConsoleForce == 0 {
		d.mu.Unlock()
		return nil, virterr.New(virterr.OperationFailed, "Active console session exists for this domain")
	}
	if d.consoles == nil {
		d.consoles = map[string]*consoleSession{}
	}
	d.consoles[alias] = s
	d.mu.Unlock()
	if old != nil {
		_ = old.shut()
	}
	rwc, err := inst.OpenConsole(alias)
	if err != nil {
		s.Close()
		return nil, err
	}
	if !s.connect(rwc) {
		rwc.Close()
		return nil, virterr.New(virterr.OperationAborted, "the console of domain '%s' was taken or closed meanwhile", d.Name())
	}
	return s, nil
}

// consoleAlias finds the device that a client means by name. Without a name it is the first serial port, as for libvirt,
// else the first console.
func consoleAlias(live *domain.Definition, name string) (string, error) {
	devices := live.View().Devices
	var aliases []string
	for _, s := range devices.Serials {
		if s.Alias != nil {
			aliases = append(aliases, s.Alias.Name)
		}
	}
	for _, c := range devices.Consoles {
		if c.Alias == nil {
			continue
		}
		if c.Target != nil && c.Target.Type == "serial" && len(devices.Serials) > 0 {
			if c.Alias.Name == name { // another name of the first serial port
				return devices.Serials[0].Alias.Name, nil
			}
			continue
		}
		aliases = append(aliases, c.Alias.Name)
	}
	for _, a := range aliases {
		if name == "" || a == name {
			return a, nil
		}
	}
	if name == "" {
		return "", virterr.New(virterr.InternalError, "cannot find default console device: domain '%s' has no <serial> or <console>", live.Name())
	}
	return "", virterr.New(virterr.InvalidArg, "cannot find character device %s", name)
}

// Monitor passes a command to the engine's monitor: a QMP object, or with hmp a human monitor line.
func (d *Domain) Monitor(ctx context.Context, command string, hmp bool) (string, error) {
	inst, _, err := d.engine()
	if err != nil {
		return "", err
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	return inst.Monitor(ctx, command, hmp)
}
