package manager

import (
	"encoding/json"
	"os"
	"strings"

	"virtd/domain"
	"virtd/domain/store"
	"virtd/virterr"
)

// bootID names this boot of the host.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", virterr.New(virterr.SystemError, "cannot tell this boot of the host from others: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// syncStatus makes the stored status record say what is. Nothing is written for a domain that is off or ending.
func (d *Domain) syncStatus() error {
	d.statusMu.Lock()
	defer d.statusMu.Unlock()
	s, ok := d.status()
	if !ok {
		return nil
	}
	return d.m.cfg.Store.SaveStatus(s)
}

// logStatus is syncStatus where a failure must not undo what happened: adoption asks the engine for its state anyway.
func (d *Domain) logStatus() {
	if err := d.syncStatus(); err != nil {
		d.m.log.Error("cannot write the status record of a domain", "domain", d.Name(), "err", err)
	}
}

// statusLater is logStatus for callers that hold d.mu or must not wait.
// Calls while one waits to be done are one: a guest decides how often it resets.
func (d *Domain) statusLater() {
	if d.statusDue.Swap(true) {
		return
	}
	d.m.wg.Go(func() {
		d.statusDue.Store(false)
		d.logStatus()
	})
}

// status returns the record of the running domain.
func (d *Domain) status() (store.Status, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.run
	if r == nil || r.ended || r.record == nil {
		return store.Status{}, false
	}
	s := store.Status{
		Version: store.StatusVersion, UUID: d.uuid, ID: d.id, BootID: d.m.cfg.BootID,
		State: int(d.state), Reason: int(d.reason), Started: r.started, Transient: !d.persistent, Autodestroy: r.autodestroy,
		LiveXML: r.live.Record(), Driver: r.record,
	}
	if r.inst != nil {
		s.PID = r.inst.PID()
	}
	if d.transient != nil {
		s.InactiveXML = d.transient.XML(domain.XMLSecure | domain.XMLInactive)
	}
	return s, true
}

// ending is what the Driver field holds in the record of a stored domain that crashed: the record stays, so that the next
// virtd can still say why it is off.
type ending struct {
	LastExit string `json:"lastExit"`
}

// dropStatus removes the record of a life that ends, or leaves one that tells of a crash, and keeps later writes from
// bringing the life back.
func (d *Domain) dropStatus(r *run, reason Reason, why string) {
	d.statusMu.Lock()
	defer d.statusMu.Unlock()
	d.mu.Lock()
	current, recorded, persistent := d.run == r, r.record != nil, d.persistent
	r.ended = true
	d.mu.Unlock()
	if !current || !recorded {
		return
	}
	err := d.m.cfg.Store.DeleteStatus(d.uuid)
	if detail, jerr := json.Marshal(ending{why}); persistent && reason == ShutOffCrashed && err == nil && jerr == nil {
		err = d.m.cfg.Store.SaveStatus(store.Status{
			UUID: d.uuid, ID: -1, BootID: d.m.cfg.BootID, State: int(ShutOff), Reason: int(reason), Driver: detail,
		})
	}
	if err != nil {
		d.m.log.Error("cannot remove the status record of a domain that stopped", "domain", d.Name(), "err", err)
	}
}
