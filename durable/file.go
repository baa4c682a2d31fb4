package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"virtd/virterr"
)

// tempPrefix begins the name of a file on its way. A crash can leave it behind; the next Write of the same file takes it
// over.
const tempPrefix = ".new-"

// Unfinished reports whether a file name is that of a Write that was cut short. Who lists a directory leaves it out.
func Unfinished(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// Write replaces the file path, or makes it, with mode 0600. It returns when the change would survive a power cut. Writes of
// the same path must not run at once. Errors say what failed on which file, in one line.
func Write(path string, data []byte) error {
	dir, name := filepath.Split(path)
	temp := filepath.Join(dir, tempPrefix+name)
	err := writeTemp(temp, data)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return failed("cannot write '%s'", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

func writeTemp(temp string, data []byte) error {
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// Remove removes a file, and returns when that would survive a power cut. A missing file is no error.
func Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed("cannot remove '%s'", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes changes of the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = d.Sync()
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return failed("cannot sync directory '%s', so the change may not survive a power cut", dir, err)
	}
	return nil
}

func failed(format, path string, err error) error {
	return fmt.Errorf(format+": %w", path, virterr.Strerror(err))
}
