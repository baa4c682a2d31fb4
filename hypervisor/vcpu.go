package hypervisor

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/kvm"
)

// vcpu is one processor and the thread that runs it.
type vcpu struct {
	m       *Machine
	index   int // its number in the machine
	v       *kvm.VCPU
	initial *kvm.State // after power-on, to which a reset returns
	exits   atomic.Uint64
	nmi     atomic.Bool      // an NMI is to be injected
	leaves  []kvm.CPUIDEntry // CPUID that came with a saved state, nil for the configuration's
	leave   atomic.Bool      // its thread is to end
	ended   chan struct{}    // closed when the thread has
}

// runner stops and starts all vCPU threads together.
//
// A thread that must stop completes its last access, counts itself as parked and waits. So when stop returns, no vCPU
// executes, none holds half an access, and its state may be read or set by the caller.
type runner struct {
	stopping atomic.Bool // the request word that threads look at before each entry
	mu       sync.Mutex
	change   sync.Cond
	threads  int // that began and did not end
	parked   int // of them
	quit     bool
	launched bool
	up       chan struct{}           // closed when every thread has begun
	present  atomic.Pointer[[]*vcpu] // by number, ascending; a list is replaced and never changed
}

func (r *runner) init() {
	r.change.L = &r.mu
	r.up = make(chan struct{})
	r.stopping.Store(true)
	r.present.Store(&[]*vcpu{})
}

// cpus returns the vCPUs that are there.
func (r *runner) cpus() []*vcpu { return *r.present.Load() }

// find returns the place in cpus of the vCPU with a number, and whether it is there.
func (r *runner) find(index int) (int, bool) {
	return slices.BinarySearchFunc(r.cpus(), index, func(c *vcpu, index int) int { return c.index - index })
}

// launch starts the threads, parked.
func (r *runner) launch() {
	r.launched = true
	for _, c := range r.cpus() {
		r.begin(c)
	}
	r.waitParked()
	close(r.up)
}

func (r *runner) begin(c *vcpu) {
	c.ended = make(chan struct{})
	r.mu.Lock()
	r.threads++
	r.mu.Unlock()
	go c.thread()
}

// put notes a vCPU that has no thread yet.
func (r *runner) put(c *vcpu) (place int) {
	place, _ = r.find(c.index)
	list := slices.Insert(slices.Clone(r.cpus()), place, c)
	r.present.Store(&list)
	return place
}

// add puts a vCPU to those of a machine that was launched, and starts its thread. The others are stopped.
func (r *runner) add(c *vcpu) (place int) {
	place = r.put(c)
	r.begin(c)
	r.waitParked()
	return place
}

// remove ends the thread of a vCPU and takes it from the others, which are stopped.
func (r *runner) remove(c *vcpu) (place int) {
	c.leave.Store(true)
	r.mu.Lock()
	r.change.Broadcast()
	r.mu.Unlock()
	<-c.ended
	c.leave.Store(false)
	place, _ = r.find(c.index)
	list := slices.Delete(slices.Clone(r.cpus()), place, place+1)
	r.present.Store(&list)
	return place
}

// requestStop asks all threads to park and does not wait. Any thread may call it, a vCPU's own too.
func (r *runner) requestStop() {
	if r.stopping.Swap(true) {
		return
	}
	for _, c := range r.cpus() {
		c.v.Kick()
	}
}

// stop parks all threads and waits until they are. A vCPU thread must not call it.
func (r *runner) stop() {
	r.requestStop()
	r.waitParked()
}

func (r *runner) waitParked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.parked < r.threads {
		r.change.Wait()
	}
}

// start lets parked threads go on.
func (r *runner) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.cpus() {
		c.v.ClearKick()
	}
	r.stopping.Store(false)
	r.change.Broadcast()
}

// shutdown ends all threads and waits for them.
func (r *runner) shutdown() {
	if !r.launched {
		return
	}
	r.requestStop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.quit = true
	r.change.Broadcast()
	for r.threads > 0 {
		r.change.Wait()
	}
}

// park waits until the thread of c may run again; it reports false when the thread must end.
func (r *runner) park(c *vcpu) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parked++
	r.change.Broadcast()
	for r.stopping.Load() && !r.quit && !c.leave.Load() {
		r.change.Wait()
	}
	r.parked--
	return !r.quit && !c.leave.Load()
}

// thread runs the vCPU until the machine ends or remove. It never leaves its operating system thread, which ends with it.
func (c *vcpu) thread() {
	runtime.LockOSThread()
	r := &c.m.runner
	c.v.Bind()
	defer func() {
		c.v.Unbind()
		r.mu.Lock()
		r.threads--
		r.change.Broadcast()
		r.mu.Unlock()
		close(c.ended)
	}()
	setThreadName(fmt.Sprintf("vcpu%d", c.v.ID()))
	for {
		if r.stopping.Load() {
			if err := c.v.CompleteIO(); err != nil {
				c.m.crash(err.Error())
			}
			if !r.park(c) {
				return
			}
			continue
		}
		if c.nmi.Swap(false) {
			c.v.ClearKick()
			if err := c.v.NMI(); err != nil {
				c.m.host.Logf("%v", err)
			}
			continue // to look at the request word: the kick may have been for it too
		}
		if err := c.v.Run(); err != nil {
			c.interrupted(err)
			continue
		}
		c.exits.Add(1)
		c.exit()
	}
}

// interrupted handles a Run that failed. EINTR has many causes; the loop looks at the request word after each.
func (c *vcpu) interrupted(err error) {
	switch {
	case errors.Is(err, unix.EINTR):
		if !c.m.runner.stopping.Load() {
			c.v.ClearKick() // for an NMI that is injected already, else every Run would end at once
		}
	case errors.Is(err, unix.EAGAIN):
	default:
		c.m.crash(fmt.Sprintf("run vCPU %d: %v", c.v.ID(), err))
	}
}

// injectNMI has the thread queue an NMI: KVM takes the request only from outside of KVM_RUN, which a halted guest never
// leaves by itself.
func (c *vcpu) injectNMI() {
	c.nmi.Store(true)
	c.v.Kick()
}

// exit handles one exit to the engine. It does not allocate for port and memory accesses.
func (c *vcpu) exit() {
	switch reason := c.v.ExitReason(); reason {
	case kvm.ExitIO:
		c.portAccess()
	case kvm.ExitMMIO:
		if a := c.v.MMIO(); a.Write {
			c.m.memorySpace.Write(a.Addr, a.Data)
		} else {
			c.m.memorySpace.Read(a.Addr, a.Data)
		}
	case kvm.ExitIntr, kvm.ExitHLT:
	case kvm.ExitShutdown:
		c.m.guestEvent(eventTripleFault, fmt.Sprintf("triple fault of vCPU %d", c.v.ID()))
	case kvm.ExitSystemEvent:
		c.systemEvent()
	case kvm.ExitInternalError:
		e := c.v.InternalError()
		c.m.crash(fmt.Sprintf("KVM cannot go on with vCPU %d: internal error %d, instruction % x%s", c.v.ID(), e.Suberror, e.Insn, c.where()))
	case kvm.ExitFailEntry:
		c.m.crash(fmt.Sprintf("the processor refuses to enter vCPU %d: reason %#x", c.v.ID(), c.v.FailEntry()))
	default:
		c.m.crash(fmt.Sprintf("vCPU %d: exit reason %d, which this engine does not know", c.v.ID(), reason))
	}
}

// portAccess passes each element of a port access on: string instructions have several.
func (c *vcpu) portAccess() {
	p := c.v.PIO()
	for data := p.Data; len(data) >= p.Size && p.Size > 0; data = data[p.Size:] {
		if p.Out {
			c.m.portSpace.Write(uint64(p.Port), data[:p.Size])
		} else {
			c.m.portSpace.Read(uint64(p.Port), data[:p.Size])
		}
	}
}

// Types of ExitSystemEvent (KVM_SYSTEM_EVENT_*).
const (
	systemEventShutdown = 1
	systemEventReset    = 2
	systemEventCrash    = 3
)

func (c *vcpu) systemEvent() {
	switch t := c.v.SystemEvent(); t {
	case systemEventShutdown:
		c.m.guestEvent(eventPowerOff, "KVM system event")
	case systemEventReset:
		c.m.guestEvent(eventReset, "KVM system event")
	case systemEventCrash:
		c.m.guestEvent(eventPanic, "KVM system event")
	default:
		c.m.crash(fmt.Sprintf("vCPU %d: system event %d, which this engine does not know", c.v.ID(), t))
	}
}

// where describes the place of a failure for the log.
func (c *vcpu) where() string {
	r, err := c.v.Regs()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(", rip %#x, rsp %#x", r.RIP, r.RSP)
}
