package hypervisor

import (
	"slices"
	"sync"
	"time"

	"virtd/hypervisor/pci"
)

// wantedQueue holds the functions that the host wants back.
type wantedQueue struct {
	mu   sync.Mutex
	ids  []string
	wake chan struct{}
}

func (q *wantedQueue) init() { q.wake = make(chan struct{}, 1) }

func (q *wantedQueue) put(id string) {
	q.mu.Lock()
	if !slices.Contains(q.ids, id) {
		q.ids = append(q.ids, id)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *wantedQueue) take() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := q.ids
	q.ids = nil
	return ids
}

// giveUp gives functions of the host up that somebody there wants: the guest is asked to let go, and when it has not until the
// host asks again, ten seconds later, the function is taken away. It is the control goroutine's.
func (m *Machine) giveUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if state, _ := m.status.get(); state == StateShutdown {
		return
	}
	for _, id := range m.wanted.take() {
		i := m.devices.find(id)
		if i < 0 {
			continue
		}
		d := &m.devices.list[i]
		if m.board.hotplug.Can(d.at) && d.wanted.IsZero() {
			m.host.Logf("%s: the host wants it back; the guest is asked to let go of it", id)
			*d.wanted, *d.requested = time.Now(), time.Now()
			m.board.hotplug.Request(d.at)
			continue
		}
		m.host.Logf("%s: the host wants it back, and the guest has not let go of it: it is taken away", id)
		m.board.hotplug.Vacate(pci.HotplugSlot{Bus: d.at.Bus, Slot: d.at.Slot})
		m.board.root.Remove(d.function)
		m.ejects.put(pci.HotplugSlot{Bus: d.at.Bus, Slot: d.at.Slot})
	}
}
