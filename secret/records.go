package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"virtd/durable"
	"virtd/virterr"
)

// Files of the records, all with mode 0600 in a directory with mode 0700:
//
//	STATE/UUID.xml    a definition
//	STATE/UUID.value  the value, as it is
const (
	definitionExt = ".xml"
	valueExt      = ".value"
)

// MaxValue is the longest value, in bytes (libvirt's REMOTE_SECRET_VALUE_MAX).
const MaxValue = 65536

const maxDefinition = 1 << 20

// records keeps secrets on disk. Its callers serialize changes.
type records struct{ dir string }

func openRecords(dir string) (records, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return records{}, failure(virterr.SystemError, "cannot create the directory of secrets: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return records{}, failure(virterr.SystemError, "cannot keep others from the directory of secrets: %w", err)
	}
	return records{dir}, nil
}

func (r records) path(id uuid.UUID, ext string) string { return filepath.Join(r.dir, id.String()+ext) }

// stored is one secret as it was found.
type stored struct {
	def   Definition
	value []byte // nil: none was set
}

// read returns the secrets on disk, and what could not be understood, which is left where it is.
func (r records) read() (list []stored, problems []error, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, failure(virterr.SystemError, "cannot read the directory of secrets: %w", err)
	}
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), definitionExt)
		if !ok || strings.HasPrefix(base, ".") {
			continue
		}
		s, err := r.readOne(base)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", filepath.Join(r.dir, e.Name()), err))
			continue
		}
		list = append(list, s)
	}
	return list, problems, nil
}

func (r records) readOne(base string) (stored, error) {
	text, err := readLimited(filepath.Join(r.dir, base+definitionExt), maxDefinition)
	if err != nil {
		return stored{}, err
	}
	def, err := Parse(string(text))
	if err != nil {
		return stored{}, err
	}
	if def.UUID.String() != base {
		return stored{}, fmt.Errorf("holds a secret with another UUID, %s", def.UUID)
	}
	value, err := readLimited(r.path(def.UUID, valueExt), MaxValue)
	if errors.Is(err, fs.ErrNotExist) {
		return stored{def: def}, nil
	}
	return stored{def, value}, err
}

func readLimited(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("is longer than %d bytes", limit)
	}
	return data, err
}

func (r records) saveDefinition(d Definition) error {
	return fileError(durable.Write(r.path(d.UUID, definitionExt), []byte(d.XML())))
}

func (r records) saveValue(id uuid.UUID, value []byte) error {
	return fileError(durable.Write(r.path(id, valueExt), value))
}

// remove forgets a secret. The value goes first: it must not outlive the definition that says whose it is.
func (r records) remove(id uuid.UUID) error {
	for _, ext := range []string{valueExt, definitionExt} {
		if err := durable.Remove(r.path(id, ext)); err != nil {
			return fileError(err)
		}
	}
	return nil
}

func fileError(err error) error {
	if err == nil {
		return nil
	}
	return failure(virterr.SystemError, "%w", err)
}
