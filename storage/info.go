package storage

import (
	"os"
	"syscall"
)

// Info is a pool's state and the sizes of the filesystem it is on, in bytes; the sizes of a stopped pool are 0.
type Info struct {
	Active                          bool
	Capacity, Allocation, Available uint64
}

// Info returns what is true now.
func (p *Pool) Info() (Info, error) {
	_, b, active, err := p.current(false)
	if err != nil || !active {
		return Info{}, err
	}
	ctx, cancel := p.m.program()
	defer cancel()
	s, err := b.sizes(ctx)
	return Info{Active: true, Capacity: s.capacity, Allocation: s.allocation, Available: s.available}, err
}

// XML returns the pool's document: what applies now, or with inactive what applies from the next start.
func (p *Pool) XML(inactive bool) (string, error) {
	d, b, active, err := p.current(inactive)
	if err != nil {
		return "", err
	}
	if !active || inactive {
		return d.xml(poolSizes{}, d.perms), nil
	}
	ctx, cancel := p.m.program()
	defer cancel()
	s, err := b.sizes(ctx)
	if err != nil {
		return "", err
	}
	return d.xml(s, b.permissions()), nil
}

// current returns a definition to work with without the lock, what does its work, and whether the pool is active.
func (p *Pool) current(inactive bool) (*definition, backend, bool, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if err := p.gone(); err != nil {
		return nil, nil, false, err
	}
	if inactive && p.next != nil {
		return p.next, nil, p.active, nil
	}
	return p.def, p.backend, p.active, nil
}

func permissionsOf(st os.FileInfo, label string) permissions {
	p := permissions{mode: int(st.Mode().Perm()), owner: -1, group: -1, label: label}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		p.mode, p.owner, p.group = int(sys.Mode&0o7777), int(sys.Uid), int(sys.Gid)
	}
	return p
}
