package storage

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"virtd/domain"
	"virtd/virterr"
)

// Volume is one volume of an active pool. It is only a name: what it stands for can go away at any time, and methods then say
// so.
type Volume struct {
	pool    *Pool
	backend backend
	Pool    string // its pool's name
	Name    string
	Path    string
	Key     string
}

// VolumeInfo is a volume's sizes in bytes.
type VolumeInfo struct {
	Capacity   uint64 // what a guest sees
	Allocation uint64 // what it takes up on disk
	Physical   uint64 // where its file ends
	Block      bool   // a block device, else a file
}

// Volumes returns the pool's volumes, by name.
func (p *Pool) Volumes() ([]Volume, error) {
	d, b, err := p.started()
	if err != nil {
		return nil, err
	}
	ctx, cancel := p.m.program()
	defer cancel()
	list, err := b.volumes(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Volume, 0, len(list))
	for _, f := range list {
		out = append(out, p.named(d, b, f))
	}
	slices.SortFunc(out, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Volume finds a volume by name.
func (p *Pool) Volume(name string) (Volume, error) {
	d, b, err := p.started()
	if err != nil {
		return Volume{}, err
	}
	if nameError(name) != nil {
		return Volume{}, noVolume(name)
	}
	ctx, cancel := p.m.program()
	defer cancel()
	f, ok := b.volume(ctx, name)
	if !ok {
		return Volume{}, noVolume(name)
	}
	return p.named(d, b, f), nil
}

func noVolume(name string) error {
	return failure(virterr.NoStorageVol, "no storage vol with matching name '%s'", name)
}

func (p *Pool) named(d *definition, b backend, f found) Volume {
	return Volume{pool: p, backend: b, Pool: d.name, Name: f.name, Path: f.path, Key: f.key}
}

// started returns the definition of an active pool, and what does its work.
func (p *Pool) started() (*definition, backend, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.def, p.backend, p.mustBeActive()
}

// kind returns the pool's type.
func (p *Pool) kind() string { return p.definition().kind }

// VolumeByPath finds the volume that is a path in an active pool.
func (m *Manager) VolumeByPath(path string) (Volume, error) {
	if v, ok := m.volumeAt(path); ok {
		return v, nil
	}
	return Volume{}, failure(virterr.NoStorageVol, "no storage vol with matching path '%s'", path)
}

// VolumeByKey finds a volume by its key: a file's path, or a logical volume's UUID.
func (m *Manager) VolumeByKey(key string) (Volume, error) {
	if v, ok := m.volumeAt(key); ok && v.Key == key {
		return v, nil
	}
	for _, p := range m.List(ListActive | ListLogical) {
		list, err := p.Volumes()
		if err != nil {
			continue // it was stopped, or its group is not to be had
		}
		for _, v := range list {
			if v.Key == key {
				return v, nil
			}
		}
	}
	return Volume{}, failure(virterr.NoStorageVol, "no storage vol with matching key %s", key)
}

// Source says what a volume of an active pool is on the host, for a domain that names it.
func (m *Manager) Source(pool, volume string) (domain.VolumeSource, error) {
	p, err := m.LookupByName(pool)
	if err != nil {
		return domain.VolumeSource{}, err
	}
	if !p.Active() {
		return domain.VolumeSource{}, failure(virterr.ConfigUnsupported, "storage pool '%s' containing volume '%s' is not active", pool, volume)
	}
	v, err := p.Volume(volume)
	if err != nil {
		return domain.VolumeSource{}, err
	}
	return domain.VolumeSource{Path: v.Path, Block: v.block()}, nil
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

// exists reports whether the volume is there.
func (v Volume) exists() bool {
	ctx, cancel := v.pool.m.program()
	defer cancel()
	_, ok := v.backend.volume(ctx, v.Name)
	return ok
}

// block reports whether the volume is a block device.
func (v Volume) block() bool {
	_, logical := v.backend.(*logicalPool)
	return logical
}

// node is the path by which this process opens the volume.
func (v Volume) node() string {
	if v.block() {
		return v.pool.m.host.Path(v.Path)
	}
	return v.Path
}

func (v Volume) inspect() (image, error) {
	im, err := v.backend.inspect(v)
	if errors.Is(err, fs.ErrNotExist) {
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
	return VolumeInfo{Capacity: im.capacity, Allocation: im.allocation, Physical: im.physical, Block: v.block()}, err
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
	if err := v.unused(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// unused fails when running domains have the volume.
func (v Volume) unused() error {
	if users := v.pool.m.users(v.Path); len(users) > 0 {
		return failure(virterr.OperationInvalid, "volume '%s' is still in use by domain '%s'; shut it down or detach the disk first",
			v.Name, strings.Join(users, "', '"))
	}
	return nil
}
