package pci

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"virtd/hypervisor/bus"
	"virtd/hypervisor/interrupt"
)

// Router gives the functions of the root bus their interrupt lines: the chipset's PIRQ wiring.
type Router interface {
	// Line returns a new share of the line that the pin (1 is INTA#) of a slot on the root bus is wired to.
	Line(slot, pin uint8) interrupt.Line
	// Watch tells the global system interrupt that the pin of a slot on the root bus is wired to: now, whenever it becomes
	// another, and interrupt.NoPin when the caller ends it. tell is called by one goroutine at a time.
	Watch(slot, pin uint8, tell func(gsi int)) (end func())
}

// RootConfig is what the PCI hierarchy needs from the machine.
type RootConfig struct {
	Memory, Ports *bus.Space
	// Reserved are ranges of guest physical memory that no BAR may cover although no bus.Device claims them: RAM, the
	// I/O APIC and the local APICs.
	Reserved []Range
	// Interrupts wires INTx pins; nil leaves them unconnected.
	Interrupts Router
	// Logf reports what the guest did wrong, at most some lines a second. nil reports nothing.
	Logf func(format string, args ...any)
}

// Root is the host's side of a PCI hierarchy: bus 0, what is below its root ports, and the dispatch of configuration
// accesses by the bus numbers that the guest programmed. Its methods are safe for concurrent use once the machine is
// assembled.
type Root struct {
	memory, ports *bus.Space
	reserved      []Range
	router        Router
	log           func(format string, args ...any)

	mu        sync.Mutex // decoders of all functions
	functions []*Function
	top       pciBus
	bridges   map[uint8]*bridge // by controller index
	logSecond int64
	logCount  int
}

// pciBus holds the functions of one bus by device and function number. Functions come and go while the guest runs;
// bridges do not.
type pciBus struct {
	byDevFn [256]atomic.Pointer[Function]
	bridges []*bridge
}

// all returns the functions of the bus in the order of their numbers.
func (b *pciBus) all() []*Function {
	var out []*Function
	for i := range b.byDevFn {
		if f := b.byDevFn[i].Load(); f != nil {
			out = append(out, f)
		}
	}
	return out
}

// NewRoot returns an empty hierarchy.
func NewRoot(c RootConfig) *Root {
	return &Root{memory: c.Memory, ports: c.Ports, reserved: c.Reserved, router: c.Interrupts, log: c.Logf,
		bridges: map[uint8]*bridge{}}
}

// Add puts a function at an address. For an address whose Bus is not 0 the root port of that index must have been added
// before.
func (r *Root) Add(a Address, f *Function) error {
	if a.Slot > 31 || a.Function > 7 {
		return fmt.Errorf("add a PCI function at %v: no such address", a)
	}
	b, parent := &r.top, (*bridge)(nil)
	if a.Bus != 0 {
		if parent = r.bridges[a.Bus]; parent == nil {
			return fmt.Errorf("add a PCI function at %v: no root port has index %d", a, a.Bus)
		}
		if a.Slot != 0 {
			return fmt.Errorf("add a PCI function at %v: a root port has slot 0 only", a)
		}
		b = &parent.bus
	}
	if other := b.byDevFn[a.devfn()].Load(); other != nil {
		return fmt.Errorf("add a PCI function at %v: %v is there", a, other)
	}
	f.address, f.parent = a, parent
	f.connect(r)
	f.reset = append([]byte(nil), f.space.data...)
	if f.bridge != nil {
		b.bridges = append(b.bridges, f.bridge)
	}
	r.mu.Lock()
	r.functions = append(r.functions, f)
	f.root = r
	r.refresh()
	r.mu.Unlock()
	b.byDevFn[a.devfn()].Store(f) // from here on a running guest finds it, whole
	b.markMultiFunction(a.Slot)
	if parent != nil {
		parent.presenceChanged()
	}
	return nil
}

// Remove takes f away from a running guest: when it returns, configuration accesses find nothing at its address, its BARs
// are gone and its interrupt pin is low. A vCPU may still be inside an access to a BAR that it began before; the caller
// stops the vCPUs before it frees what such an access uses. Removing what is not there does nothing. Any thread may call
// it that is in no hook or BAR callback.
func (r *Root) Remove(f *Function) {
	b := &r.top
	if f.parent != nil {
		b = &f.parent.bus
	}
	if !b.byDevFn[f.address.devfn()].CompareAndSwap(f, nil) {
		return
	}
	f.access.Lock()
	defer f.access.Unlock()
	r.mu.Lock()
	for _, d := range f.decoders {
		if d.mapped {
			r.unmap(d)
		}
	}
	r.functions = slices.DeleteFunc(r.functions, func(g *Function) bool { return g == f })
	f.root = nil
	r.refresh() // what it covered may be wanted by another
	r.mu.Unlock()
	f.mu.Lock()
	f.asserted = false
	f.updateINTx()
	f.mu.Unlock()
	if f.unwatch != nil {
		f.unwatch()
		f.unwatch = nil
	}
	if f.parent != nil {
		f.parent.presenceChanged()
	}
}

// connect wires the interrupt pin. Below a root port a pin rotates by its slot (PCI-to-PCI Bridge 1.2, 9.1), which is 0.
func (f *Function) connect(r *Root) {
	if f.pin == 0 || r.router == nil {
		return
	}
	slot := f.address.Slot
	if f.parent != nil {
		slot = f.parent.f.address.Slot
	}
	if f.onPin != nil {
		f.unwatch = r.router.Watch(slot, f.pin, f.onPin)
		return
	}
	f.line = r.router.Line(slot, f.pin)
}

// markMultiFunction sets the header bit on function 0 that makes guests look for the others (PCI 3.0, 6.2.1), whatever
// the order in which they came.
func (b *pciBus) markMultiFunction(slot uint8) {
	first := b.byDevFn[slot<<3].Load()
	if first == nil {
		return
	}
	for fn := uint8(1); fn < 8; fn++ {
		if b.byDevFn[slot<<3|fn].Load() != nil {
			first.SetMultiFunction()
			return
		}
	}
}

// SetMultiFunction sets the multi-function bit, also for a slot whose other functions come later.
func (f *Function) SetMultiFunction() {
	f.mu.Lock()
	f.space.data[regHeaderType] |= headerMultiFunction
	if f.reset != nil {
		f.reset[regHeaderType] |= headerMultiFunction
	}
	f.mu.Unlock()
}

// Functions returns every function in the order of Add.
func (r *Root) Functions() []*Function {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Function(nil), r.functions...)
}

// LastBus returns the highest bus number that Assign gives. What tells guests how many buses there are should say no
// more: Linux probes every slot of every bus that the MCFG table names, two exits for each.
func (r *Root) LastBus() uint8 {
	var last uint8
	for index := range r.bridges {
		last = max(last, index)
	}
	return last
}

// Function returns the function at a, or nil.
func (r *Root) Function(a Address) *Function {
	if a.Slot > 31 || a.Function > 7 {
		return nil
	}
	if a.Bus == 0 {
		return r.top.byDevFn[a.devfn()].Load()
	}
	if b := r.bridges[a.Bus]; b != nil {
		return b.bus.byDevFn[a.devfn()].Load()
	}
	return nil
}

// Reset resets every function, those below bridges first.
func (r *Root) Reset() {
	all := r.Functions()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].Reset()
	}
}

// find returns the function that answers for the guest's bus number, or nil.
func (r *Root) find(busNumber, devfn uint8) *Function {
	if busNumber == 0 {
		return r.top.byDevFn[devfn].Load()
	}
	b := &r.top
	for b != nil {
		var next *pciBus
		for _, br := range b.bridges {
			secondary, subordinate := br.numbers()
			if busNumber == secondary {
				return br.bus.byDevFn[devfn].Load()
			}
			if secondary != 0 && busNumber > secondary && busNumber <= subordinate {
				next = &br.bus
				break
			}
		}
		b = next
	}
	return nil
}

// ConfigRead is a guest read of the register at offset of the function with the guest's bus number. Nothing there reads
// as all ones.
func (r *Root) ConfigRead(busNumber, devfn uint8, offset int, p []byte) {
	if f := r.find(busNumber, devfn); f != nil {
		f.ConfigRead(offset, p)
		return
	}
	for i := range p {
		p[i] = 0xff
	}
}

// ConfigWrite is a guest write of the register at offset of the function with the guest's bus number.
func (r *Root) ConfigWrite(busNumber, devfn uint8, offset int, p []byte) {
	if f := r.find(busNumber, devfn); f != nil {
		f.ConfigWrite(offset, p)
	}
}

const logLinesPerSecond = 5

// logf reports guest mistakes without letting the guest fill the log. The caller holds mu.
func (r *Root) logf(format string, args ...any) {
	if r.log == nil {
		return
	}
	if now := time.Now().Unix(); now != r.logSecond {
		r.logSecond, r.logCount = now, 0
	}
	if r.logCount++; r.logCount <= logLinesPerSecond {
		r.log(format, args...)
	}
}
