package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/domain/saveimage"
	"virtd/domain/wholefile"
	"virtd/durable"
	"virtd/virterr"
)

const savedExt = ".save"

// savedPath is where the domain's managed save image is. It is named by UUID, which never changes.
func (d *Domain) savedPath() string { return filepath.Join(d.m.cfg.SaveDir, d.uuid.String()+savedExt) }

// findSaved looks for managed save images. What unfinished saves left, what belongs to nobody and what belongs to a guest
// that runs is removed: the last would bring the guest's past back.
func (m *Manager) findSaved() {
	if m.cfg.SaveDir == "" {
		return
	}
	entries, err := os.ReadDir(m.cfg.SaveDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Error("cannot look for managed save images", "dir", m.cfg.SaveDir, "err", err)
	}
	for _, e := range entries {
		path := filepath.Join(m.cfg.SaveDir, e.Name())
		base, ours := strings.CutSuffix(e.Name(), savedExt)
		id, err := uuid.Parse(base)
		switch {
		case strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), wholefile.TempSuffix):
			m.dropImage(path, "it was not finished")
		case ours && err == nil && id.String() == base:
			m.foundSaved(id, path)
		}
	}
}

func (m *Manager) foundSaved(id uuid.UUID, path string) {
	d := m.byUUID[id]
	if d == nil || !d.Persistent() {
		m.log.Warn("a managed save image belongs to no domain; it is left as it is", "path", path)
		return
	}
	if d.Active() {
		m.dropImage(path, "its guest runs")
		return
	}
	img, err := saveimage.Open(path)
	if errors.Is(err, saveimage.ErrIncomplete) {
		m.dropImage(path, "it was not finished, or its guest went on")
		return
	}
	if err == nil {
		img.Close()
	}
	d.saved = true // one that cannot be read is told of when it is used
}

func (m *Manager) dropImage(path, why string) {
	m.log.Warn("a managed save image is removed: "+why, "path", path)
	if err := removeDurably(path); err != nil {
		m.log.Error("cannot remove a managed save image", "path", path, "err", err)
	}
}

func removeDurably(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// HasManagedSave reports whether the next start goes on from a saved state.
func (d *Domain) HasManagedSave() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return false, d.notFound()
	}
	return d.saved, nil
}

func (d *Domain) setSaved(yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saved = yes
}

// ManagedSave is Save to an image that the next start uses up.
func (d *Domain) ManagedSave(ctx context.Context, flags SaveFlags) error {
	if err := checkFlags(flags, saveKnown, "qemuDomainManagedSave"); err != nil {
		return err
	}
	j, err := d.begin(context.WithoutCancel(ctx), "managed save")
	if err != nil {
		return err
	}
	defer j.end()
	switch {
	case !d.Active():
		return notRunning()
	case !d.Persistent():
		return virterr.New(virterr.OperationInvalid, "cannot do managed save for transient domain")
	case d.m.cfg.SaveDir == "":
		return virterr.New(virterr.OperationUnsupported, "managed save has no directory to keep images in")
	}
	if err := os.MkdirAll(d.m.cfg.SaveDir, 0o700); err != nil {
		return fileError("create", d.m.cfg.SaveDir, err)
	}
	// Known before the engine leaves: whoever sees the domain off may start it.
	d.setSaved(true)
	err = j.outcome(d, d.save(j, d.savedPath(), "", flags))
	if err == nil {
		return nil
	}
	d.setSaved(false)
	if img, ierr := saveimage.Open(d.savedPath()); ierr == nil { // complete, and the guest may run: it must not be used
		img.Close()
		d.m.dropImage(d.savedPath(), "the domain could not be ended after it")
	} else if errors.Is(ierr, saveimage.ErrIncomplete) {
		d.m.dropImage(d.savedPath(), "its guest went on")
	}
	return err
}

// RemoveManagedSave discards the managed save image.
func (d *Domain) RemoveManagedSave(ctx context.Context) error {
	j, err := d.begin(ctx, "managed save remove")
	if err != nil {
		return err
	}
	defer j.end()
	return d.removeSaved()
}

func (d *Domain) removeSaved() error {
	path := d.savedPath()
	if err := removeDurably(path); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			d.setSaved(false)
		}
		return fileError("remove managed save", path, err)
	}
	d.setSaved(false)
	return nil
}

// refuseSaved keeps a saved guest from being started past its image, which would then be of another time than its disks.
func (d *Domain) refuseSaved(what string) error {
	saved, err := d.HasManagedSave()
	if err == nil && saved {
		err = virterr.New(virterr.OperationInvalid, "cannot %s domain '%s': it has a managed save image; start it to go on from that, or remove the image first", what, d.Name())
	}
	return err
}

// undefineSaved decides about a managed save image of a domain that goes away.
func (d *Domain) undefineSaved(flags UndefineFlags) error {
	saved, err := d.HasManagedSave()
	switch {
	case err != nil || !saved:
		return err
	case flags&UndefineManagedSave == 0:
		return virterr.New(virterr.OperationInvalid, "Refusing to undefine while domain managed save image exists")
	}
	return d.removeSaved()
}

// noManagedSave is what the calls about the image say without one.
func noManagedSave() error {
	return virterr.New(virterr.OperationInvalid, "domain does not have managed save image")
}

// ManagedSaveXML returns the document in the managed save image.
func (d *Domain) ManagedSaveXML(flags domain.XMLFlags) (string, error) {
	if err := checkFlags(flags, domain.XMLSecure, "qemuDomainManagedSaveGetXMLDesc"); err != nil {
		return "", err
	}
	if saved, err := d.HasManagedSave(); err != nil || !saved {
		return "", errors.Join(err, noManagedSave())
	}
	return d.m.SaveImageXML(d.savedPath(), flags)
}

// ManagedSaveDefine is SaveImageDefine for the managed save image.
func (d *Domain) ManagedSaveDefine(ctx context.Context, xml string, flags SaveFlags) error {
	j, err := d.begin(ctx, "managed save define")
	if err != nil {
		return err
	}
	defer j.end()
	if saved, err := d.HasManagedSave(); err != nil || !saved {
		return errors.Join(err, noManagedSave())
	}
	return d.m.SaveImageDefine(d.savedPath(), xml, flags)
}

// startSaved goes on from the managed save image, if there is one that flags do not discard, and reports whether it did. The
// image is gone, durably, before the guest runs; one that a start failed with stays.
func (d *Domain) startSaved(j *job, flags StartFlags) (resumed bool, err error) {
	if saved, err := d.HasManagedSave(); err != nil || !saved {
		return false, err
	}
	if flags&StartForceBoot != 0 {
		return false, d.removeSaved()
	}
	path := d.savedPath()
	img, def, err := d.m.openImage(path)
	if errors.Is(err, saveimage.ErrIncomplete) {
		d.m.log.Warn("an incomplete managed save image is ignored", "domain", d.Name(), "path", path)
		return false, d.removeSaved()
	}
	if err == nil && def.UUID() != d.uuid {
		img.Close()
		err = virterr.New(virterr.OperationFailed, "the managed save image is of domain '%s'", def.Name())
	}
	if err != nil {
		return false, d.discardHint(err)
	}
	defer img.Close()
	began := false
	b := flags.boot(def)
	b.paused = b.paused || !img.Running
	b.incoming = img.State()
	b.restored = func() error {
		began = true
		return d.removeSaved()
	}
	err = d.start(j.ctx, b)
	if err != nil && !began {
		err = d.discardHint(err)
	}
	return err == nil, err
}

// discardHint says what can be done about an image that does not start.
func (d *Domain) discardHint(err error) error {
	e := virterr.As(err)
	return virterr.New(e.Code, "cannot start domain '%s' from its saved state, which is kept: %s; start it with --force-boot to discard that", d.Name(), e.Message)
}
