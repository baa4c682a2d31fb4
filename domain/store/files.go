package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"virtd/virterr"
)

// errVisible is wrapped by errors of changes that happened but may be undone by a power cut: something could not be
// synced. The index follows what is there.
var errVisible = errors.New("the change may not survive a power cut")

// replace replaces path by a file with that text, atomically. With durable the text is on disk before it has the name; the
// name is, once the directory is synced.
func (d *Dir) replace(path string, text []byte, durable bool) error {
	r, err := d.newReplacement(path, string(text))
	if err != nil {
		return err
	}
	defer r.abandon()
	if durable {
		if err := r.sync(); err != nil {
			return err
		}
	}
	return r.finish()
}

// replacement is a file on its way: written, then synced, then given its name.
type replacement struct {
	d          *Dir
	temp, path string
	file       file // nil: closed
	named      bool
}

// newReplacement writes the text that path shall have.
func (d *Dir) newReplacement(path, text string) (*replacement, error) {
	dir, name := filepath.Split(path)
	r := &replacement{d: d, path: path, temp: filepath.Join(dir, fmt.Sprintf(".%s.%d%s", name, d.serial.Add(1), tempExt))}
	var err error
	r.file, err = d.fs.Create(r.temp, 0o600)
	if errors.Is(err, os.ErrExist) { // left by a crash after our Open: by another process that should not be here
		if err = d.fs.Remove(r.temp); err == nil {
			r.file, err = d.fs.Create(r.temp, 0o600)
		}
	}
	if err == nil {
		_, err = io.WriteString(r.file, text)
	}
	if err != nil {
		r.abandon()
		return nil, r.failed(err)
	}
	return r, nil
}

// sync makes the text durable.
func (r *replacement) sync() error {
	err := r.file.Sync()
	if cerr := r.close(); err == nil {
		err = cerr
	}
	return r.failed(err)
}

// finish puts the file in its place.
func (r *replacement) finish() error {
	err := r.close()
	if err == nil {
		err = r.d.fs.Rename(r.temp, r.path)
	}
	r.named = err == nil
	return r.failed(err)
}

// abandon removes what did not get its name. r may be nil.
func (r *replacement) abandon() {
	if r == nil || r.named {
		return
	}
	_ = r.close()
	_ = r.d.fs.Remove(r.temp)
}

func (r *replacement) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

func (r *replacement) failed(err error) error {
	if err == nil {
		return nil
	}
	return virterr.New(virterr.SystemError, "cannot write '%s': %w", r.path, err)
}

// remove removes a file; a missing one is no error.
func (d *Dir) remove(path string) error {
	if err := d.fs.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return virterr.New(virterr.SystemError, "cannot remove '%s': %w", path, err)
	}
	return nil
}

// syncDir makes names in a directory durable.
func (d *Dir) syncDir(dir string) error {
	if err := d.fs.SyncDir(dir); err != nil {
		return virterr.New(virterr.SystemError, "cannot sync directory '%s': %v: %w", dir, err, errVisible)
	}
	return nil
}
