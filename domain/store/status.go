package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sort"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

const maxStatus = 3 * xmltree.MaxSize // bytes; a record holds two documents

// SaveStatus implements Store.
func (d *Dir) SaveStatus(s Status) error {
	s.Version = StatusVersion
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return virterr.New(virterr.InternalError, "cannot write the record of domain %s: %w", s.UUID, err)
	}
	d.statuses.Lock()
	defer d.statuses.Unlock()
	return d.replace(d.statusPath(s.UUID), append(text, '\n'), false)
}

// DeleteStatus implements Store.
func (d *Dir) DeleteStatus(id uuid.UUID) error {
	d.statuses.Lock()
	defer d.statuses.Unlock()
	return d.remove(d.statusPath(id))
}

// Statuses implements Store.
func (d *Dir) Statuses() ([]Status, []Problem) {
	d.statuses.Lock()
	defer d.statuses.Unlock()
	list, err := d.fs.ReadDir(d.run)
	if err != nil {
		return nil, []Problem{{d.run, err}}
	}
	var out []Status
	var problems []Problem
	for _, e := range list {
		base, ok := strings.CutSuffix(e.Name(), statusExt)
		if !ok || strings.HasPrefix(base, ".") {
			continue
		}
		path := filepath.Join(d.run, e.Name())
		s, err := d.readStatus(path, base)
		if err != nil {
			problems = append(problems, Problem{path, err})
			continue
		}
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, problems
}

func (d *Dir) readStatus(path, base string) (s Status, err error) {
	text, err := d.fs.ReadFile(path, maxStatus)
	if err != nil {
		return s, err
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&s); err != nil {
		return s, err
	}
	switch {
	case s.UUID.String() != base:
		return s, fmt.Errorf("record is of domain %s", s.UUID)
	case s.Version < 1 || s.Version > StatusVersion:
		return s, fmt.Errorf("record has version %d, this build reads up to %d", s.Version, StatusVersion)
	}
	return s, nil
}
