package network

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/durable"
	"virtd/durable/definitions"
	"virtd/virterr"
)

// What is on disk of networks, beside the definitions:
//
//	RUN/ports/UUID.json   a port of a running domain
const (
	portsDir = "ports"
	portExt  = ".json"
)

// records keeps networks and their ports on disk. Its callers serialize changes.
type records struct {
	*definitions.Store[*definition]
	run string
}

func openRecords(state, run string) (*records, error) {
	store, err := definitions.Open(definitions.Kind[*definition]{Name: "network", From: virterr.FromNetwork, Parse: parse,
		XML: (*definition).xml, Identity: func(d *definition) (uuid.UUID, string) { return d.uuid, d.name }, MaxSize: xmltree.MaxSize}, state, run)
	if err != nil {
		return nil, err
	}
	ports := filepath.Join(run, portsDir)
	if err := os.MkdirAll(ports, 0o700); err != nil {
		return nil, failure(virterr.SystemError, "cannot create directory '%s': %w", ports, virterr.Strerror(err))
	}
	return &records{store, run}, nil
}

func (r *records) portPath(id uuid.UUID) string {
	return filepath.Join(r.run, portsDir, id.String()+portExt)
}

func (r *records) savePort(p *Port) error {
	text, err := json.Marshal(p)
	if err != nil {
		return failure(virterr.InternalError, "cannot encode port '%s': %w", p.UUID, err)
	}
	return fileError(durable.Write(r.portPath(p.UUID), text))
}

func (r *records) forgetPort(id uuid.UUID) error { return fileError(durable.Remove(r.portPath(id))) }

// ports returns the ports on record and the files that could not be understood.
func (r *records) ports() (list []*Port, problems []definitions.Problem) {
	files, err := filepath.Glob(filepath.Join(r.run, portsDir, "*"+portExt))
	if err != nil {
		return nil, []definitions.Problem{{Path: filepath.Join(r.run, portsDir), Err: err}}
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
			problems = append(problems, definitions.Problem{Path: path, Err: err})
			continue
		}
		list = append(list, p)
	}
	return list, problems
}

func fileError(err error) error {
	if err == nil {
		return nil
	}
	return failure(virterr.SystemError, "%w", err)
}
