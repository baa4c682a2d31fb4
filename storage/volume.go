package storage

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"virtd/virterr"
)

// Volume is one file of an active pool. It is only a name: the file can go away at any time, and methods then say so.
type Volume struct {
	pool *Pool
	Pool string // its pool's name
	Name string
	Path string // also its key
}

// VolumeInfo is a volume's sizes in bytes.
type VolumeInfo struct {
	Capacity   uint64 // what a guest sees
	Allocation uint64 // what it takes up on disk
	Physical   uint64 // where its file ends
}

// Volumes returns the regular files in the pool's directory, by name. Links to regular files count, as in libvirt.
func (p *Pool) Volumes() ([]Volume, error) {
	d, err := p.started()
	if err != nil {
		return nil, err
	}
	list, err := os.ReadDir(d.target)
	if err != nil {
		return nil, failure(virterr.SystemError, "cannot open directory '%s': %w", d.target, virterr.Strerror(err))
	}
	var out []Volume
	for _, e := range list {
		if nameError(e.Name()) != nil || strings.HasPrefix(e.Name(), partialPrefix) {
			continue
		}
		v := p.volume(d, e.Name())
		if e.Type().IsRegular() || e.Type()&os.ModeSymlink != 0 && v.exists() {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Volume finds a volume by name.
func (p *Pool) Volume(name string) (Volume, error) {
	d, err := p.started()
	if err != nil {
		return Volume{}, err
	}
	v := p.volume(d, name)
	if nameError(name) != nil || !v.exists() {
		return Volume{}, noVolume(name)
	}
	return v, nil
}

func noVolume(name string) error {
	return failure(virterr.NoStorageVol, "no storage vol with matching name '%s'", name)
}

func (p *Pool) volume(d *definition, name string) Volume {
	return Volume{pool: p, Pool: d.name, Name: name, Path: filepath.Join(d.target, name)}
}

// started returns the definition of an active pool.
func (p *Pool) started() (*definition, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.def, p.mustBeActive()
}

// VolumeByPath finds the volume that is a path in an active pool.
func (m *Manager) VolumeByPath(path string) (Volume, error) {
	if v, ok := m.volumeAt(path); ok {
		return v, nil
	}
	return Volume{}, failure(virterr.NoStorageVol, "no storage vol with matching path '%s'", path)
}

// VolumeByKey finds a volume by its key, which is its path.
func (m *Manager) VolumeByKey(key string) (Volume, error) {
	if v, ok := m.volumeAt(key); ok {
		return v, nil
	}
	return Volume{}, failure(virterr.NoStorageVol, "no storage vol with matching key %s", key)
}

func (m *Manager) volumeAt(path string) (Volume, bool) {
	if !filepath.IsAbs(path) {
		return Volume{}, false
	}
	path = filepath.Clean(path)
	p, err := m.LookupByTarget(filepath.Dir(path))
	if err != nil {
		return Volume{}, false
	}
	v, err := p.Volume(filepath.Base(path))
	return v, err == nil
}

// Volume finds the volume that a client means by its pool's and its own name.
func (m *Manager) Volume(pool, name string) (Volume, error) {
	p, err := m.LookupByName(pool)
	if err != nil {
		return Volume{}, err
	}
	return p.Volume(name)
}

// Owner returns the volume's pool.
func (v Volume) Owner() *Pool { return v.pool }

// exists reports whether the volume's file is there.
func (v Volume) exists() bool {
	st, err := os.Stat(v.Path)
	return err == nil && st.Mode().IsRegular()
}

func (v Volume) inspect() (image, error) {
	im, err := inspect(v.Path)
	if os.IsNotExist(err) {
		return im, noVolume(v.Name)
	}
	if err != nil {
		return im, failure(virterr.SystemError, "cannot stat file '%s': %w", v.Path, virterr.Strerror(err))
	}
	return im, nil
}

// Info returns the volume's sizes.
func (v Volume) Info() (VolumeInfo, error) {
	im, err := v.inspect()
	return VolumeInfo{Capacity: im.capacity, Allocation: im.allocation, Physical: im.physical}, err
}

// XML returns the volume's document.
func (v Volume) XML() (string, error) {
	im, err := v.inspect()
	if err != nil {
		return "", err
	}
	return v.xml(im), nil
}

// nameError says why a name cannot be a volume's.
func nameError(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return failure(virterr.InvalidArg, "'%s' cannot be the name of a volume", name)
	case strings.Contains(name, "/"):
		return failure(virterr.OperationInvalid, "volume name '%s' cannot contain '/'", name)
	case len(name) > 255:
		return failure(virterr.InvalidArg, "volume name of %d bytes is longer than a file's can be (255)", len(name))
	case !utf8.ValidString(name):
		return failure(virterr.InvalidArg, "volume name %q is not UTF-8", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return failure(virterr.InvalidArg, "volume name %q has control characters", name)
	}
	return nil
}

// hold marks volumes as being used, and the pool as not to be stopped, until release is called.
func (v Volume) hold() (release func(), err error) {
	p := v.pool
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.mustBeActive(); err != nil {
		return nil, err
	}
	if p.creating[v.Name] {
		return nil, failure(virterr.OperationInvalid, "volume '%s' is still being allocated.", v.Name)
	}
	if p.busy == nil {
		p.busy = map[string]int{}
	}
	p.busy[v.Name]++
	p.jobs++
	return func() {
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		if p.busy[v.Name]--; p.busy[v.Name] == 0 {
			delete(p.busy, v.Name)
		}
		p.jobs--
	}, nil
}

// claim is hold for a change that nobody else may be using the volume for, running domains included.
func (v Volume) claim() (release func(), err error) {
	release, err = v.hold()
	if err != nil {
		return nil, err
	}
	v.pool.m.mu.Lock()
	used := v.pool.busy[v.Name] > 1
	v.pool.m.mu.Unlock()
	if used {
		release()
		return nil, failure(virterr.OperationInvalid, "volume '%s' is still in use.", v.Name)
	}
	if users := v.pool.m.users(v.Path); len(users) > 0 {
		release()
		return nil, failure(virterr.OperationInvalid, "volume '%s' is still in use by domain '%s'; shut it down or detach the disk first",
			v.Name, strings.Join(users, "', '"))
	}
	return release, nil
}
