package pci

import "virtd/hypervisor/bus"

// decoder is a range of ports or memory whose place a configuration register chooses: a BAR, the ICH9's PM block, ECAM.
// The root's lock guards mapped and at.
type decoder struct {
	f       *Function
	name    string
	size    uint64
	dev     bus.Device
	io      bool
	target  func() (base uint64, on bool)
	onMap   func(base uint64)
	onUnmap func(base uint64)

	mapped  bool
	at      uint64
	refused bool // wanted, but its place is taken
	why     uint64
}

// decodeChanged is called after registers changed: it moves what has to move.
func (f *Function) decodeChanged() {
	r := f.root
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.bridge != nil {
		if f.bridge.windowsChanged() {
			r.refresh()
		}
		return
	}
	for _, d := range f.decoders {
		if base, on := d.target(); on != d.mapped || on && base != d.at {
			r.refresh()
			return
		}
	}
}

// refresh unmaps every decoder that is off or moved, then maps those that are on: in two passes, so that ranges may swap
// places, and over all functions, so that one that was refused gets the place another left. The caller holds mu.
func (r *Root) refresh() {
	for _, f := range r.functions {
		for _, d := range f.decoders {
			if base, on := d.target(); d.mapped && (!on || base != d.at) {
				r.unmap(d)
			}
		}
	}
	for _, f := range r.functions {
		for _, d := range f.decoders {
			base, on := d.target()
			if !on {
				d.refused = false
			} else if !d.mapped {
				r.mapAt(d, base)
			}
		}
	}
}

func (r *Root) spaceOf(d *decoder) *bus.Space {
	if d.io {
		return r.ports
	}
	return r.memory
}

func (r *Root) unmap(d *decoder) {
	if d.onUnmap != nil {
		d.onUnmap(d.at)
	}
	r.spaceOf(d).Remove(d.at)
	d.mapped = false
}

// mapAt claims the range unless RAM or another device is there. A guest can ask for such a place: it gets none, and the
// log says so once for each attempt.
func (r *Root) mapAt(d *decoder, base uint64) {
	if !d.io {
		for _, taken := range r.reserved {
			if taken.overlaps(base, d.size) {
				r.refuse(d, base, "that is RAM or an interrupt controller")
				return
			}
		}
	}
	if err := r.spaceOf(d).Add(base, d.size, d.dev); err != nil {
		r.refuse(d, base, err.Error())
		return
	}
	d.mapped, d.at, d.refused = true, base, false
	if d.onMap != nil {
		d.onMap(base)
	}
}

func (r *Root) refuse(d *decoder, base uint64, why string) {
	if d.refused && d.why == base {
		return
	}
	d.refused, d.why = true, base
	r.logf("%v: %s of %#x bytes at %#x not decoded: %s", d.f, d.name, d.size, base, why)
}
