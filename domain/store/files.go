package store

import (
	"errors"
	"fmt"
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
	dir, name := filepath.Split(path)
	temp := filepath.Join(dir, fmt.Sprintf(".%s.%d%s", name, d.serial.Add(1), tempExt))
	err := d.writeTemp(temp, text, durable)
	if err == nil {
		err = d.fs.Rename(temp, path)
	}
	if err != nil {
		_ = d.fs.Remove(temp)
		return virterr.New(virterr.SystemError, "cannot write '%s': %w", path, err)
	}
	return nil
}

func (d *Dir) writeTemp(temp string, text []byte, durable bool) error {
	f, err := d.fs.Create(temp, 0o600)
	if errors.Is(err, os.ErrExist) { // left by a crash after our Open: by another process that should not be here
		if err = d.fs.Remove(temp); err == nil {
			f, err = d.fs.Create(temp, 0o600)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
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
