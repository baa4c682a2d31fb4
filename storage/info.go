package storage

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// Info is a pool's state and the sizes of the filesystem it is on, in bytes; the sizes of a stopped pool are 0.
type Info struct {
	Active                          bool
	Capacity, Allocation, Available uint64
}

// Info returns what is true now.
func (p *Pool) Info() (Info, error) {
	d, active, err := p.current(false)
	if err != nil || !active {
		return Info{}, err
	}
	s, err := d.sizes()
	return Info{Active: true, Capacity: s.capacity, Allocation: s.allocation, Available: s.available}, err
}

// XML returns the pool's document: what applies now, or with inactive what applies from the next start.
func (p *Pool) XML(inactive bool) (string, error) {
	d, active, err := p.current(inactive)
	if err != nil {
		return "", err
	}
	if !active || inactive {
		return d.xml(poolSizes{}, d.perms), nil
	}
	s, err := d.sizes()
	if err != nil {
		return "", err
	}
	perms := d.perms
	if st, err := os.Stat(d.target); err == nil {
		perms = permissionsOf(st, d.perms.label)
	}
	return d.xml(s, perms), nil
}

// current returns a definition to work with without the lock, and whether the pool is active.
func (p *Pool) current(inactive bool) (*definition, bool, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.gone(); err != nil {
		return nil, false, err
	}
	if inactive && p.next != nil {
		return p.next, p.active, nil
	}
	return p.def, p.active, nil
}

func (d *definition) sizes() (poolSizes, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.target, &s); err != nil {
		return poolSizes{}, failure(virterr.SystemError, "cannot statvfs path '%s': %w", d.target, virterr.Strerror(err))
	}
	unit := uint64(s.Frsize)
	total, free := s.Blocks*unit, s.Bfree*unit
	return poolSizes{capacity: total, allocation: total - free, available: free}, nil
}

func permissionsOf(st os.FileInfo, label string) permissions {
	p := permissions{mode: int(st.Mode().Perm()), owner: -1, group: -1, label: label}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		p.mode, p.owner, p.group = int(sys.Mode&0o7777), int(sys.Uid), int(sys.Gid)
	}
	return p
}
