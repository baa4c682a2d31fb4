package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Files of the records:
//
//	STATE/UUID.xml          a definition
//	STATE/UUID.autostart    empty: start it with the host
//	STATE/default-network   empty: the default network was made once; who removes that network does not get it back
//	RUN/UUID.xml            an active network's definition, by which the next virtd finds it active
//	RUN/ports/UUID.json     a port of a running domain
//	RUN/autostarted         empty: networks were started for this boot
//
// A file is first written under a name with tempPrefix, which a power cut can leave behind; the next write takes it over.
const (
	definitionExt   = ".xml"
	autostartExt    = ".autostart"
	defaultMark     = "default-network"
	autostartedMark = "autostarted"
	portsDir        = "ports"
	portExt         = ".json"
	tempPrefix      = ".new-"
)

// records keeps pools on disk. Its callers serialize changes.
type records struct{ state, run string }

func openRecords(state, run string) (*records, error) {
	for _, dir := range []string{state, run, filepath.Join(run, portsDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, failure(virterr.SystemError, "cannot create directory '%s': %w", dir, err)
		}
	}
	return &records{state, run}, nil
}

// problem is a file that could not be read. It is left where it is.
type problem struct {
	path string
	err  error
}

// read returns the definitions in a directory and the files that could not be understood.
func (r *records) read(dir string) ([]*definition, []problem, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, failure(virterr.SystemError, "cannot read directory '%s': %w", dir, err)
	}
	var defs []*definition
	var problems []problem
	for _, e := range list {
		base, ok := strings.CutSuffix(e.Name(), definitionExt)
		if !ok || strings.HasPrefix(base, ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		def, err := readDefinition(path)
		if err == nil && def.uuid.String() != base {
			err = fmt.Errorf("holds network '%s' with another UUID, %s", def.name, def.uuid)
		}
		if err != nil {
			problems = append(problems, problem{path, err})
			continue
		}
		defs = append(defs, def)
	}
	return defs, problems, nil
}

func readDefinition(path string) (*definition, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, xmltree.MaxSize+1))
	if err != nil {
		return nil, err
	}
	return parse(string(text))
}

func (r *records) autostart(id uuid.UUID) bool {
	_, err := os.Stat(r.autostartPath(id))
	return err == nil
}

func (r *records) definitionPath(id uuid.UUID) string {
	return filepath.Join(r.state, id.String()+definitionExt)
}

func (r *records) autostartPath(id uuid.UUID) string {
	return filepath.Join(r.state, id.String()+autostartExt)
}

func (r *records) activePath(id uuid.UUID) string {
	return filepath.Join(r.run, id.String()+definitionExt)
}

// save puts a definition on disk.
func (r *records) save(d *definition) error {
	return writeFile(r.definitionPath(d.uuid), d.xml(0))
}

// forget removes a definition. The mark goes first: a mark without a definition would start the next network of that UUID.
func (r *records) forget(id uuid.UUID) error {
	if err := removeFile(r.autostartPath(id)); err != nil {
		return err
	}
	return removeFile(r.definitionPath(id))
}

func (r *records) setAutostart(id uuid.UUID, on bool) error {
	if on {
		return writeFile(r.autostartPath(id), "")
	}
	return removeFile(r.autostartPath(id))
}

func (r *records) setActive(d *definition) error {
	return writeFile(r.activePath(d.uuid), d.xml(0))
}

func (r *records) setInactive(id uuid.UUID) error { return removeFile(r.activePath(id)) }

func (r *records) portPath(id uuid.UUID) string {
	return filepath.Join(r.run, portsDir, id.String()+portExt)
}

func (r *records) savePort(p *Port) error {
	text, err := json.Marshal(p)
	if err != nil {
		return failure(virterr.InternalError, "cannot encode port '%s': %w", p.UUID, err)
	}
	return writeFile(r.portPath(p.UUID), string(text))
}

func (r *records) forgetPort(id uuid.UUID) error { return removeFile(r.portPath(id)) }

// ports returns the ports on record and the files that could not be understood.
func (r *records) ports() (list []*Port, problems []problem) {
	files, err := filepath.Glob(filepath.Join(r.run, portsDir, "*"+portExt))
	if err != nil {
		return nil, []problem{{filepath.Join(r.run, portsDir), err}}
	}
	for _, path := range files {
		if strings.HasPrefix(filepath.Base(path), tempPrefix) {
			continue
		}
		p := &Port{}
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, p)
		}
		if err != nil {
			problems = append(problems, problem{path, err})
			continue
		}
		list = append(list, p)
	}
	return list, problems
}

// writeFile replaces path atomically and returns after the change would survive a power cut.
func writeFile(path, text string) error {
	dir, name := filepath.Split(path)
	temp := filepath.Join(dir, tempPrefix+name)
	err := writeTemp(temp, text)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return failure(virterr.SystemError, "cannot write '%s': %w", path, err)
	}
	return syncDir(dir)
}

func writeTemp(temp, text string) error {
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// removeFile removes a file durably; a missing one is no error.
func removeFile(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot remove '%s': %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes changes of a directory's names durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = d.Sync()
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return failure(virterr.SystemError, "cannot sync directory '%s', so the change may not survive a power cut: %w", dir, err)
	}
	return nil
}
