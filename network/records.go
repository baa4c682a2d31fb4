package network

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/durable"
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
const (
	definitionExt   = ".xml"
	autostartExt    = ".autostart"
	defaultMark     = "default-network"
	autostartedMark = "autostarted"
	portsDir        = "ports"
	portExt         = ".json"
)

// records keeps networks on disk. Its callers serialize changes.
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
	return writeFile(r.definitionPath(d.uuid), d.xml())
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
	return writeFile(r.activePath(d.uuid), d.xml())
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
		if durable.Unfinished(filepath.Base(path)) {
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

// writeFile and removeFile are package durable's with the errors of this one.
func writeFile(path, text string) error { return fileError(durable.Write(path, []byte(text))) }
func removeFile(path string) error      { return fileError(durable.Remove(path)) }

func fileError(err error) error {
	if err == nil {
		return nil
	}
	return failure(virterr.SystemError, "%w", err)
}
