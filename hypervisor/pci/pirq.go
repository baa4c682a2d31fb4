package pci

import (
	"slices"
	"sync"

	"virtd/hypervisor/interrupt"
)

// pirqRouter is the interrupt steering of a south bridge: each PIRQ input drives a line of the I/O APIC, if the board has
// one for it, and the ISA interrupt that a register of the bridge names. An input is the OR of the functions wired to it.
type pirqRouter struct {
	controller interrupt.Controller
	pirqOf     func(slot, pin uint8) int
	f          *Function
	regs       []int // offset of the steering register of each input
	apic       []interrupt.Line
	firstGSI   int // of apic

	mu    sync.Mutex
	count []int                       // functions that drive each input
	isa   []interrupt.Line            // the ISA line each input drives now, nil when steered nowhere
	lines map[[2]uint8]interrupt.Line // by input and ISA interrupt, made when first steered there

	watching sync.Mutex // held over calls of watchers; taken before mu
	watchers []*pirqWatcher
}

// pirqWatcher is somebody who drives an input without this router.
type pirqWatcher struct {
	input, gsi int
	tell       func(gsi int)
}

const (
	pirqDisabled = 1 << 7 // ICH9 13.1.18 and PIIX3 2.2.12: IRQEN#
	pirqMask     = 0x0f
)

// pirqAllowed are the ISA interrupts that steering registers may name: 3 to 7, 9 to 12, 14, 15.
const pirqAllowed = 0xdef8

// newPIRQ adds steering registers to f. firstGSI is the I/O APIC input of PIRQA, or -1 when there is none.
func newPIRQ(f *Function, c interrupt.Controller, regs []int, firstGSI int, pirqOf func(slot, pin uint8) int) *pirqRouter {
	n := len(regs)
	r := &pirqRouter{controller: c, pirqOf: pirqOf, f: f, regs: regs, count: make([]int, n),
		isa: make([]interrupt.Line, n), firstGSI: firstGSI, lines: map[[2]uint8]interrupt.Line{}}
	for i, reg := range regs {
		f.space.data[reg] = pirqDisabled
		f.Writable(reg, pirqDisabled|pirqMask)
		f.OnWrite(reg, 1, func(int, int) { r.steer(i) })
		if firstGSI >= 0 {
			r.apic = append(r.apic, c.Line(uint32(firstGSI+i)))
		}
	}
	f.OnReset(func() {
		for i := range regs {
			r.steer(i)
		}
	})
	return r
}

// Line implements Router.
func (r *pirqRouter) Line(slot, pin uint8) interrupt.Line {
	return &pirqShare{r: r, input: r.pirqOf(slot, pin)}
}

// steer moves input i to the ISA interrupt that its register names.
func (r *pirqRouter) steer(i int) {
	defer r.tell()
	v := r.f.Uint8(r.regs[i])
	r.mu.Lock()
	defer r.mu.Unlock()
	var next interrupt.Line
	if n := v & pirqMask; v&pirqDisabled == 0 && pirqAllowed>>n&1 != 0 {
		key := [2]uint8{uint8(i), n}
		if next = r.lines[key]; next == nil {
			next = r.controller.Line(uint32(n))
			r.lines[key] = next
		}
	}
	if old := r.isa[i]; old != nil && old != next {
		old.Set(false)
	}
	if r.isa[i] = next; next != nil {
		next.Set(r.count[i] > 0)
	}
}

// gsi is the one pin that stands for an input: its own of the I/O APIC, if the board has one, since a guest that uses the
// 8259s there is rare; else the ISA interrupt it is steered to.
func (r *pirqRouter) gsi(input int) int {
	if r.apic != nil {
		return r.firstGSI + input
	}
	v := r.f.Uint8(r.regs[input])
	if n := int(v & pirqMask); v&pirqDisabled == 0 && pirqAllowed>>n&1 != 0 {
		return n
	}
	return interrupt.NoPin
}

// Watch implements Router.
func (r *pirqRouter) Watch(slot, pin uint8, tell func(gsi int)) (end func()) {
	w := &pirqWatcher{input: r.pirqOf(slot, pin), gsi: interrupt.NoPin, tell: tell}
	r.watching.Lock()
	r.watchers = append(r.watchers, w)
	r.watching.Unlock()
	r.tell()
	return func() {
		r.watching.Lock()
		defer r.watching.Unlock()
		r.watchers = slices.DeleteFunc(r.watchers, func(x *pirqWatcher) bool { return x == w })
		w.tell(interrupt.NoPin)
	}
}

// tell lets those know whose input is steered elsewhere now.
func (r *pirqRouter) tell() {
	r.watching.Lock()
	defer r.watching.Unlock()
	for _, w := range r.watchers {
		if gsi := r.gsi(w.input); gsi != w.gsi {
			w.gsi = gsi
			w.tell(gsi)
		}
	}
}

// pirqShare is one function's share of an input.
type pirqShare struct {
	r     *pirqRouter
	input int
	high  bool
}

// Set implements interrupt.Line.
func (s *pirqShare) Set(high bool) {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.high == high {
		return
	}
	s.high = high
	if high {
		r.count[s.input]++
	} else {
		r.count[s.input]--
	}
	active := r.count[s.input] > 0
	if r.apic != nil {
		r.apic[s.input].Set(active)
	}
	if r.isa[s.input] != nil {
		r.isa[s.input].Set(active)
	}
}
