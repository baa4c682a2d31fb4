package main

import (
	"path/filepath"
	"time"

	"virtd/bench/ab"
)

// startCase is one way to start a guest, and the peer to compare with.
type startCase struct {
	name, kernel string
	huge         bool
	peer         func(guest) (*engine, error)
	bound        float64
}

// benchStart measures from the engine's exec to the first thing that user space says, for the ELF kernel that both
// engines enter by PVH, on huge pages. The promise is about q35 as it comes; next to its trimmed board, what is left is the
// guest's own work, which is the same on both sides.
func benchStart(h host) ([]ab.Result, error) {
	return h.starts([]startCase{
		{"start to user space, ELF, huge pages", "6.1/vmlinux", true, h.startPeerAsItComes, 0.45},
		{"start to user space, ELF, huge pages, trimmed q35", "6.1/vmlinux", true, h.startPeer, 0},
	})
}

// benchStartVariants measures the same on anonymous memory, and for the compressed kernel.
func benchStartVariants(h host) ([]ab.Result, error) {
	return h.starts([]startCase{
		{"start to user space, ELF, anonymous memory", "6.1/vmlinux", false, h.startPeerAsItComes, 0},
		{"start to user space, bzImage, huge pages", "6.1/vmlinuz", true, h.startPeerAsItComes, 0},
	})
}

func (h host) starts(cases []startCase) ([]ab.Result, error) {
	var all []ab.Result
	for _, c := range cases {
		g := guest{kernel: filepath.Join(h.images, c.kernel), initrd: filepath.Join(h.images, "6.1/initrd-first"), memory: 128, huge: c.huge}
		// from memory, and once before it counts: page caches are then warm for both
		var err error
		if g.kernel, err = h.copyIn(g.kernel); err != nil {
			return nil, err
		}
		sampler := func(start func(guest) (*engine, error)) ab.Sampler {
			return func() ([]float64, error) { return timeToUserSpace(start, g) }
		}
		for _, warm := range []ab.Sampler{sampler(h.start), sampler(c.peer)} {
			if _, err := warm(); err != nil {
				return nil, err
			}
		}
		m := ab.Measure{Name: c.name, Unit: "s", Better: ab.Lower, RatioBound: c.bound}
		r, err := ab.Compare(h.rounds, []ab.Measure{m}, sampler(h.start), sampler(c.peer))
		if err != nil {
			return nil, err
		}
		all = append(all, r...)
	}
	return all, nil
}

func timeToUserSpace(start func(guest) (*engine, error), g guest) ([]float64, error) {
	e, err := start(g)
	if err != nil {
		return nil, err
	}
	if _, err := e.expect("LAB-FIRST"); err != nil {
		e.kill()
		return nil, err
	}
	took := time.Since(e.started)
	return []float64{took.Seconds()}, e.finish()
}
