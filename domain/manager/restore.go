package manager

import (
	"context"
	"errors"

	"virtd/domain"
	"virtd/domain/saveimage"
	"virtd/virterr"
)

// openImage opens a save image and reads its document, in libvirt's words where it has some.
func (m *Manager) openImage(path string) (*saveimage.Image, *domain.Definition, error) {
	img, err := saveimage.Open(path)
	if err != nil {
		return nil, nil, imageError("open", path, err)
	}
	def, err := domain.ParseSaved(img.XML, m.parseOptions())
	if err != nil {
		img.Close()
		return nil, nil, err
	}
	return img, def, nil
}

func imageError(verb, path string, err error) error {
	switch {
	case errors.Is(err, saveimage.ErrMagic) || errors.Is(err, saveimage.ErrIncomplete) || errors.Is(err, saveimage.ErrDamaged):
		return virterr.New(virterr.OperationFailed, "%w ('%s')", err, path)
	case errors.Is(err, saveimage.ErrTooLarge):
		return virterr.New(virterr.OperationFailed, "%w", err)
	}
	return fileError(verb, path, err)
}

// Restore starts the domain of an image where it was saved. The image stays. One that is not stored under its UUID is
// transient. xml, unless "", is the document to use instead of the image's.
func (m *Manager) Restore(ctx context.Context, path, xml string, flags SaveFlags) error {
	if err := checkFlags(flags, saveKnown|SaveResetNVRAM, "qemuDomainRestoreFlags"); err != nil {
		return err
	}
	img, def, err := m.openImage(path)
	if err != nil {
		return err
	}
	defer img.Close()
	if xml != "" {
		text, err := m.replaceSaved(def, xml)
		if err == nil {
			def, err = domain.ParseSaved(text, m.parseOptions())
		}
		if err != nil {
			return err
		}
	}
	d, j, err := m.claim(ctx, def, "restore")
	if err != nil {
		return err
	}
	defer j.end()
	d.mu.Lock()
	persistent, running := d.persistent, d.run != nil
	d.mu.Unlock()
	if running {
		return virterr.New(virterr.OperationInvalid, "domain '%s' is already active", d.Name())
	}
	if err := d.refuseSaved("restore"); err != nil {
		return err
	}
	if !persistent {
		if err := d.becomeTransient(def); err != nil {
			m.forget(d)
			return err
		}
	}
	m.reveal(d)
	err = d.start(j.ctx, boot{def: def, paused: !flags.runs(img.Running), incoming: img.State()})
	if err != nil && !persistent {
		m.forget(d)
	}
	return j.outcome(d, err)
}

// becomeTransient gives a domain that is not stored the definition of its image.
func (d *Domain) becomeTransient(def *domain.Definition) error {
	inactive, err := def.Inactive()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.transient = inactive
	d.mu.Unlock()
	return nil
}

// SaveImageXML returns the document in an image.
func (m *Manager) SaveImageXML(path string, flags domain.XMLFlags) (string, error) {
	if err := checkFlags(flags, domain.XMLSecure, "qemuDomainSaveImageGetXMLDesc"); err != nil {
		return "", err
	}
	img, def, err := m.openImage(path)
	if err != nil {
		return "", err
	}
	defer img.Close()
	return def.XML(flags), nil
}

// SaveImageDefine replaces the document in an image, and what its guest does after a restore when flags say so. It must
// describe the machine that was saved.
func (m *Manager) SaveImageDefine(path, xml string, flags SaveFlags) error {
	if err := checkFlags(flags, SaveRunning|SavePaused, "qemuDomainSaveImageDefineXML"); err != nil {
		return err
	}
	img, def, err := m.openImage(path)
	if err != nil {
		return err
	}
	defer img.Close()
	text, err := m.replaceSaved(def, xml)
	if err != nil {
		return err
	}
	if err := saveimage.Rewrite(path, saveimage.Header{XML: text, Running: flags.runs(img.Running)}); err != nil {
		return imageError("write", path, err)
	}
	return nil
}
