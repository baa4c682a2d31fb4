package manager

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/domain/store"
	"virtd/driver"
	"virtd/virterr"
)

// adoptTimeout bounds the adoption of one engine.
const adoptTimeout = 15 * time.Second

// Open reads the store and adopts the engines that earlier processes left running. Guests that died meanwhile are shown
// as shut off, with the reason. It returns when every domain's state is known.
func (m *Manager) Open(ctx context.Context) error {
	for _, p := range m.cfg.Store.Problems() {
		m.log.Error("cannot read a domain definition; it is left as it is", "path", p.Path, "err", p.Err)
	}
	for _, e := range m.cfg.Store.Entries() {
		d := newDomain(m, e.UUID, e.Name)
		d.persistent, d.visible = true, true
		m.byUUID[e.UUID], m.byName[e.Name] = d, d
	}
	statuses, problems := m.cfg.Store.Statuses()
	for _, p := range problems {
		m.log.Error("cannot read the record of a running domain; it is left as it is", "path", p.Path, "err", p.Err)
	}
	found := map[*Domain]store.Status{}
	for _, s := range statuses {
		m.lastID = max(m.lastID, s.ID)
		if s.BootID != m.cfg.BootID {
			m.stale(s)
			continue
		}
		if State(s.State) == ShutOff {
			m.rememberEnding(s)
			continue
		}
		d, err := m.recorded(s)
		if err != nil {
			m.log.Error("cannot use the record of a running domain; it is left as it is", "uuid", s.UUID, "err", err)
			continue
		}
		found[d] = s
	}
	// Only now: a domain whose engine is gone may be one to forget, and the list of domains must be complete by then.
	var adoptions sync.WaitGroup
	limit := make(chan struct{}, 8)
	for d, s := range found {
		adoptions.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			m.adopt(ctx, d, s)
		})
	}
	adoptions.Wait()
	m.tidy(statuses)
	m.destroyOrphans(ctx)
	m.findSaved()
	return ctx.Err()
}

// tidy removes what unfinished starts left. Whatever has a record is spared, also where the record was of no use.
func (m *Manager) tidy(statuses []store.Status) {
	var running []uuid.UUID
	for _, s := range statuses {
		if d := m.byUUID[s.UUID]; s.BootID == m.cfg.BootID && (d == nil || d.Active()) {
			running = append(running, s.UUID)
		}
	}
	if err := m.cfg.Driver.Tidy(running); err != nil {
		m.log.Warn("cannot remove what unfinished starts left", "err", err)
	}
}

// stale removes a record that nobody needs: the host was booted since, or the domain is no more.
func (m *Manager) stale(s store.Status) {
	if err := m.cfg.Store.DeleteStatus(s.UUID); err != nil {
		m.log.Error("cannot remove a stale record", "uuid", s.UUID, "err", err)
	}
}

// rememberEnding takes over why a domain is off.
func (m *Manager) rememberEnding(s store.Status) {
	d := m.byUUID[s.UUID]
	if d == nil {
		m.stale(s)
		return
	}
	var e ending
	if json.Unmarshal(s.Driver, &e) == nil {
		d.reason, d.lastExit = Reason(s.Reason), e.LastExit
	}
}

// recorded returns the domain of a status record, with its life filled in as recorded.
func (m *Manager) recorded(s store.Status) (*Domain, error) {
	opts := m.parseOptions()
	opts.Stored, opts.Live = true, true
	live, err := domain.Parse(s.LiveXML, opts)
	if err != nil {
		return nil, err
	}
	d := m.byUUID[s.UUID]
	if d == nil {
		if other := m.byName[live.Name()]; other != nil {
			return nil, errors.New("its name now belongs to domain " + other.uuid.String())
		}
		d = newDomain(m, s.UUID, live.Name())
		m.byUUID[d.uuid], m.byName[d.Name()] = d, d
		d.visible, m.order = true, nil
		opts.Live = false
		if d.transient, err = domain.Parse(s.InactiveXML, opts); err != nil {
			d.transient, err = domain.Parse(s.LiveXML, opts)
		}
		if err != nil {
			return nil, err
		}
	}
	d.run = &run{live: live, record: s.Driver, started: s.Started, gone: make(chan struct{}), autodestroy: s.Autodestroy}
	d.id, d.state, d.reason = s.ID, State(s.State), Reason(s.Reason)
	m.byID[s.ID] = d
	return d, nil
}

// adopt connects a domain to its engine.
func (m *Manager) adopt(ctx context.Context, d *Domain, s store.Status) {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	r := d.run
	inst, err := m.cfg.Driver.Adopt(ctx, s.Driver, r.live)
	var gone *driver.Gone
	switch {
	case errors.As(err, &gone):
		m.log.Warn("a domain stopped while virtd was away", "domain", d.Name(), "reason", gone.Exit.Reason, "detail", gone.Exit.Detail)
		d.exited(r, gone.Exit)
		return
	case err != nil:
		m.log.Error("cannot adopt the engine of a domain", "domain", d.Name(), "err", err)
		d.finish(r, ShutOffDaemon, StoppedFailed, err.Error())
		return
	}
	d.mu.Lock()
	r.inst = inst
	d.mu.Unlock()
	status, err := inst.Status(ctx)
	if err != nil {
		m.log.Warn("an adopted engine does not tell its state; the recorded one is shown", "domain", d.Name(), "err", err)
	} else {
		d.mu.Lock()
		d.reconcile(status)
		d.mu.Unlock()
	}
	if stats, err := inst.MemoryStats(ctx); err == nil {
		d.mu.Lock()
		r.balloon = stats.Actual / 1024
		d.mu.Unlock()
	}
	inst.Listen(func(e driver.Event) { d.handle(r, e) })
	d.logStatus()
}

// destroyOrphans ends the domains that were to end with their clients' connections: those ended with the virtd before this
// one. It runs when all are adopted, as transient domains go away with it.
func (m *Manager) destroyOrphans(ctx context.Context) {
	var ends sync.WaitGroup
	for _, d := range m.List(ListActive) {
		d.mu.Lock()
		orphan := d.run != nil && d.run.autodestroy
		d.mu.Unlock()
		if !orphan {
			continue
		}
		ends.Go(func() {
			m.log.Info("destroying a domain whose client left while virtd was away", "domain", d.Name())
			if err := d.Autodestroy(ctx, d.Ref().ID); err != nil && !virterr.Is(err, virterr.OperationInvalid) {
				m.log.Error("cannot destroy a domain whose client left while virtd was away", "domain", d.Name(), "err", err)
			}
		})
	}
	ends.Wait()
}

// reconcile corrects the recorded state by what the engine says, without events: nobody was there to be told. The caller
// holds d.mu.
func (d *Domain) reconcile(s driver.Status) {
	switch {
	case s.State == driver.MachineRunning && d.state != Running:
		d.state, d.reason = Running, RunningUnknown
	case s.State == driver.MachinePaused && d.state != Paused:
		d.state, d.reason = Paused, PausedUnknown
	case s.State == driver.MachinePaused && d.reason == PausedStartingUp:
		d.reason = PausedUnknown // virtd ended between the engine's start and the first Cont
	case s.State == driver.MachineShutdown:
		d.state, d.reason = ShuttingOff, ShuttingUnknown
	case s.State == driver.MachineCrashed:
		d.state, d.reason = Crashed, CrashedPanicked
	}
}

// release lets go of the engine, which runs on.
func (d *Domain) release() {
	d.mu.Lock()
	var inst driver.Instance
	if d.run != nil {
		inst = d.run.inst
	}
	d.closeConsoles()
	d.mu.Unlock()
	if inst != nil {
		inst.Close()
	}
}

// Autostart starts the domains that are marked for it, one after the other, unless that was done in this boot of the
// host. Failures are logged and do not stop the others.
func (m *Manager) Autostart(ctx context.Context) {
	if mark, err := os.ReadFile(m.cfg.AutostartMark); err == nil && strings.TrimSpace(string(mark)) == m.cfg.BootID {
		return
	}
	for _, e := range m.cfg.Store.Entries() {
		if !e.Autostart || ctx.Err() != nil {
			continue
		}
		d, err := m.LookupByUUID(e.UUID)
		if err != nil || d.Active() {
			continue
		}
		if err := d.Start(ctx, 0); err != nil {
			m.log.Error("cannot autostart a domain", "domain", e.Name, "err", err)
		}
	}
	if m.cfg.AutostartMark == "" || ctx.Err() != nil {
		return
	}
	if err := os.WriteFile(m.cfg.AutostartMark, []byte(m.cfg.BootID+"\n"), 0o600); err != nil {
		m.log.Error("cannot remember that autostart was done; it will be done again", "path", m.cfg.AutostartMark, "err", err)
	}
}
