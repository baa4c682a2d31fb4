package virtio

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// noVector is VIRTIO_MSI_NO_VECTOR (virtio 1.2, 4.1.4.3).
const noVector = 0xffff

// ISR status bits (4.1.4.5).
const (
	isrQueue  = 1
	isrConfig = 2
)

// vector is an MSI-X vector register and the interrupt it selects. Device threads read it while vCPUs write.
type vector struct {
	t *PCI
	n atomic.Uint32
}

func (v *vector) get() uint16 { return uint16(v.n.Load()) }

// set stores n, or noVector when the function has no such vector: the driver reads back what it got (4.1.5.1.2).
func (v *vector) set(n uint16) {
	if v.t.msix == nil || int(n) >= v.t.msix.Len() {
		n = noVector
	}
	v.n.Store(uint32(n))
}

// signal raises the interrupt: the vector when MSI-X is on, else the pin with its reason in the ISR.
func (v *vector) signal(reason uint8) {
	t := v.t
	if !t.msix.Enabled() {
		t.isr.raise(reason)
		return
	}
	if msi := t.msix.Vector(int(v.get())); msi != nil {
		msi.Signal()
	}
}

// fd is the eventfd that raises the interrupt, -1 when the driver wants none.
func (v *vector) fd() int {
	if !v.t.msix.Enabled() {
		return v.t.intxCall
	}
	if msi := v.t.msix.Vector(int(v.get())); msi != nil {
		return msi.FD()
	}
	return -1
}

// queueInterrupt is a queue's Interrupt.
type queueInterrupt struct{ v *vector }

// Signal implements Interrupt.
func (q queueInterrupt) Signal() { q.v.signal(isrQueue) }

// FD returns an eventfd that does what Signal does, or -1.
func (q queueInterrupt) FD() int { return q.v.fd() }

// isr is the ISR status register and the interrupt pin it drives. Bits and level change together, or a reason that
// comes while the driver reads would be lost.
type isr struct {
	t    *PCI
	mu   sync.Mutex
	bits uint8
}

func (i *isr) raise(reason uint8) {
	i.mu.Lock()
	i.bits |= reason
	i.t.fn.SetINTx(true)
	i.mu.Unlock()
}

// take is the driver's read: it clears the register and lowers the pin.
func (i *isr) take() uint8 {
	i.mu.Lock()
	defer i.mu.Unlock()
	b := i.bits
	i.bits = 0
	i.t.fn.SetINTx(false)
	return b
}

func (i *isr) clear() {
	if i.t.fn != nil {
		i.take()
	}
}

func (i *isr) restore(b uint8) {
	if i.clear(); b&(isrQueue|isrConfig) != 0 {
		i.raise(b & (isrQueue | isrConfig))
	}
}

// startPump turns signals of kernel back ends into the interrupt pin, for a driver without MSI-X. The caller holds mu.
func (t *PCI) startPump() error {
	k, err := newKicks(t.intxCall)
	if err != nil {
		return err
	}
	t.pump, t.pumpDone = k, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		for k.Wait() {
			t.isr.raise(isrQueue)
		}
	}(t.pumpDone)
	return nil
}

func (t *PCI) stopPump() {
	if t.pump != nil {
		t.pump.Close()
		<-t.pumpDone
		t.pump = nil
	}
}

// kick is a doorbell write that reached the engine: the kernel has none bound there.
func (t *PCI) kick(queue int) {
	if queue < len(t.queues) && t.queues[queue].live.Load() {
		unix.Write(t.kicks[queue], eventOne)
	}
}

var eventOne = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// barMapped and barUnmapped follow the BAR that has the doorbells.
func (t *PCI) barMapped(base uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bar = base
	t.bindDoorbells()
}

func (t *PCI) barUnmapped(uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unbindDoorbells()
	t.bar = 0
}

// bindDoorbells hands the doorbells of live queues to the kernel while a driver is active, so that a guest that sizes
// BARs causes no work. The caller holds mu.
func (t *PCI) bindDoorbells() {
	if t.cfg.Doorbells == nil || t.bar == 0 || !t.running || len(t.bound) > 0 {
		return
	}
	t.bound = make([]uint64, len(t.queues))
	for i := range t.queues {
		if t.active[i] == nil {
			continue
		}
		gpa := t.bar + notifyAt + uint64(i*t.stride)
		if err := t.cfg.Doorbells.Bind(gpa, t.kicks[i]); err != nil {
			if !t.noBind {
				t.noBind = true
				t.cfg.Logf("%s: queue %d: kicks will be slow: %v", t.cfg.Name, i, err)
			}
			continue
		}
		t.bound[i] = gpa
	}
}

func (t *PCI) unbindDoorbells() {
	for i, gpa := range t.bound {
		if gpa != 0 {
			t.cfg.Doorbells.Unbind(gpa, t.kicks[i])
		}
	}
	t.bound = nil
}
