package manager

import (
	"context"
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/domain/saveimage"
	"virtd/driver"
	"virtd/virterr"
)

// Save writes the running guest's state to a new image at path and ends the domain. The image is durable before the guest
// is gone. When it fails, or AbortJob comes, the guest goes on and there is no image. xml, unless "", is the document to
// keep in the image instead of the running one.
func (d *Domain) Save(ctx context.Context, path, xml string, flags SaveFlags) error {
	if err := checkFlags(flags, saveKnown, "qemuDomainSaveFlags"); err != nil {
		return err
	}
	if err := checkImagePath(path); err != nil {
		return err
	}
	j, err := d.begin(context.WithoutCancel(ctx), "save") // a client that leaves does not end it
	if err != nil {
		return err
	}
	defer j.end()
	return j.outcome(d, d.save(j, path, xml, flags))
}

func checkImagePath(path string) error {
	if !filepath.IsAbs(path) {
		return virterr.New(virterr.InvalidArg, "path '%s' of an image is not absolute", path)
	}
	return nil
}

// save does what Save says. The caller has the job.
func (d *Domain) save(j *job, path, xml string, flags SaveFlags) error {
	inst, live, err := d.engine()
	if err != nil {
		return err
	}
	state, _ := d.State()
	if state != Running && state != Paused {
		return virterr.New(virterr.OperationInvalid, "domain is not running (it is %s)", state)
	}
	if list := live.HostdevDevices(); len(list) > 0 { // whose state nobody but the device has
		if list[0].Is("interface") {
			return virterr.New(virterr.OperationInvalid, "cannot migrate a domain with <interface type='hostdev'>")
		}
		return virterr.New(virterr.OperationInvalid, "cannot migrate a domain with <hostdev mode='subsystem' type='pci'>")
	}
	header := saveimage.Header{XML: withMemory(live, d.Info().CurrentMemory).Saved(), Running: flags.runs(state == Running)}
	if xml != "" {
		if header.XML, err = d.m.replaceSaved(live, xml); err != nil {
			return err
		}
	}
	img, err := saveimage.Create(path, header)
	if err != nil {
		return fileError("create", path, err)
	}
	var held driver.Saved
	err = d.runLong(j, JobSave, inst, func(ctx context.Context) error {
		held, err = inst.Save(ctx, img.State(), live) // as the image has it
		return err
	})
	if err != nil {
		d.settle(inst, state)
		return errors.Join(longError("save", d.Name(), path, err), img.Abort())
	}
	if err := img.Commit(flags&SaveBypassCache != 0); err != nil {
		d.resumeHeld(held)
		return errors.Join(fileError("write", path, err), img.Abort())
	}
	return d.endSaved(j, held, inst, path)
}

// runs says what the guest does after a restore.
func (flags SaveFlags) runs(ran bool) bool {
	switch {
	case flags&SaveRunning != 0:
		return true
	case flags&SavePaused != 0:
		return false
	}
	return ran
}

// endSaved ends the engine of a guest whose image is complete.
func (d *Domain) endSaved(j *job, held driver.Saved, inst driver.Instance, path string) error {
	d.mu.Lock()
	r := d.run
	if r != nil {
		r.endAs = &end{ShutOffSaved, StoppedSaved}
	}
	d.mu.Unlock()
	if r == nil { // it died after all was written, which changes nothing
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), d.m.cfg.QuitTimeout)
	defer cancel()
	if err := held.Quit(ctx); err != nil && !d.waitGone(r, dyingTime) {
		// Whether the state is void only the engine knows. An image that it took back is told apart by itself.
		d.mu.Lock()
		r.endAs = nil
		d.mu.Unlock()
		if img, ierr := saveimage.Open(path); ierr == nil {
			img.Close()
			d.m.log.Error("a domain was saved and its engine did not leave; destroy it before the image is used", "domain", d.Name(), "path", path)
		}
		return err
	}
	if d.waitGone(r, d.m.cfg.QuitTimeout) {
		return nil
	}
	if err := inst.Kill(); err != nil && !d.isGone(r) {
		return err
	}
	d.waitGone(r, d.m.cfg.JobTimeout)
	return nil
}

// resumeHeld lets a guest go on whose image could not be finished.
func (d *Domain) resumeHeld(held driver.Saved) {
	ctx, cancel := context.WithTimeout(d.m.ctx, d.m.cfg.JobTimeout)
	defer cancel()
	if err := held.Resume(ctx); err != nil {
		d.m.log.Error("a guest whose save failed does not go on", "domain", d.Name(), "err", err)
	}
}

// settle waits until the engine has taken a save or dump that failed back, so that the state that clients see is true. An
// engine that ran runs again.
func (d *Domain) settle(inst driver.Instance, was State) {
	if was != Running {
		return
	}
	ctx, cancel := context.WithTimeout(d.m.ctx, d.m.cfg.JobTimeout)
	defer cancel()
	if err := inst.Cont(ctx); err != nil && d.Active() {
		d.m.log.Error("a guest does not go on after a job that failed", "domain", d.Name(), "err", err)
	}
}

// longError names what a long job was about.
func longError(what, name, path string, err error) error {
	if virterr.Is(err, virterr.OperationFailed) {
		return virterr.New(virterr.OperationFailed, "cannot %s domain '%s' to '%s': %s", what, name, path, virterr.As(err).Message)
	}
	return err
}

// fileError says what could not be done to a file, with the C library's spelling of the reason.
func fileError(verb, path string, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		text := errno.Error()
		return virterr.New(virterr.SystemError, "Failed to %s file '%s': %s%w", verb, path, capital(text), silent{err})
	}
	return virterr.New(virterr.OperationFailed, "cannot %s '%s': %w", verb, path, err)
}

func capital(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

// silent keeps a cause without its text.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// replaceSaved checks a user's document for the saved machine of def and returns it as an image keeps it.
func (m *Manager) replaceSaved(def *domain.Definition, xml string) (string, error) {
	other, err := domain.ParseSaved(xml, m.parseOptions())
	if err != nil {
		return "", err
	}
	if err := other.Check(); err != nil {
		return "", err
	}
	if err := def.CheckSameMachine(other); err != nil {
		return "", err
	}
	return other.Saved(), nil
}
