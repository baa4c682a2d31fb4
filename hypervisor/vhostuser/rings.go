package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
)

// rings are queues that the back end of a session serves.
type rings struct {
	session *session
	queues  []*virtio.Queue
	enabled int
	follows []*follow // where nobody else keeps account; else empty
}

// startRings has the back end serve the queues. It does nothing when it does so already. The caller holds mu.
func (b *Backend) startRings(s *session) error {
	if b.rings != nil {
		return nil
	}
	w := b.want
	switch {
	case b.logging(s):
		if err := s.setLog(b.log); err != nil {
			return err
		}
	case b.log != nil:
		b.log.missed = errNoLog
	}
	if err := s.set(setFeatures, word(b.ringFeatures(s))); err != nil {
		return err
	}
	if b.cfg.MTU != 0 && s.protocol&protocolMTU != 0 {
		if err := s.set(netSetMTU, word(uint64(b.cfg.MTU))); err != nil {
			return err
		}
	}
	if err := s.setMemory(w.Memory); err != nil {
		return err
	}
	if err := b.giveAccount(s); err != nil {
		return err
	}
	r := &rings{session: s, enabled: -1}
	b.rings = r // from here on the back end may work, and abandonRings is right
	for _, q := range w.Queues {
		if q == nil {
			continue
		}
		kick, err := b.follow(r, q)
		if err != nil {
			return err
		}
		r.queues = append(r.queues, q)
		if err := s.startQueue(w.Memory, q, kick, b.logging(s)); err != nil {
			return fmt.Errorf("queue %d: %w", q.Index(), err)
		}
	}
	if err := r.enable(int(b.enabled.Load())); err != nil {
		return err
	}
	for _, q := range r.queues {
		unix.Write(q.KickFD(), one) // what came before may have been kicked for already
		if q.CallFD() >= 0 {
			unix.Write(q.CallFD(), one) // and given back without an interrupt, by a back end that is gone
		}
	}
	return nil
}

// ringFeatures are those that the back end is to execute. The caller holds mu.
func (b *Backend) ringFeatures(s *session) uint64 {
	features := b.want.Features &^ featureLogAll & s.features
	if s.features&featureProtocol != 0 {
		features |= featureProtocol
	}
	if b.logging(s) {
		features |= featureLogAll
	}
	return features
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// giveAccount gives the back end the buffer in which it keeps account of what it works on, if it does that.
func (b *Backend) giveAccount(s *session) error {
	if s.protocol&protocolInflight == 0 {
		return nil
	}
	if b.account == nil {
		entries := uint16(0)
		for _, q := range b.want.Queues {
			if q != nil {
				entries = max(entries, q.Size())
			}
		}
		account, err := s.newInflight(uint16(len(b.want.Queues)), entries)
		if err != nil {
			return err
		}
		b.account = account
	}
	return s.set(setInflightFD, b.account.payload(), b.account.fd)
}

func (i *inflight) drop() {
	if i != nil {
		unix.Close(i.fd)
	}
}

// enable starts or stops the use of rings: the first n are to be used. They stand still before the first call.
func (r *rings) enable(n int) error {
	if r.session.features&featureProtocol == 0 || n == r.enabled {
		return nil
	}
	for _, q := range r.queues {
		on := q.Index() < n
		if r.enabled >= 0 && on == (q.Index() < r.enabled) {
			continue
		}
		v := uint32(0)
		if on {
			v = 1
		}
		if err := r.session.set(setVringEnable, vringState(uint32(q.Index()), v)); err != nil {
			return err
		}
	}
	r.enabled = n
	return nil
}

// stopRings takes the queues back. When the back end does not play along it is abandoned. The caller holds mu.
func (b *Backend) stopRings() {
	r := b.rings
	bases := make([]uint32, len(r.queues))
	for i, q := range r.queues {
		var err error
		if bases[i], err = r.session.stopQueue(q); err != nil {
			r.session.fail(err)
			b.abandonRings()
			return
		}
	}
	drained := true
	for i, q := range r.queues {
		drained = drain(q, bases[i], r.session.until()) && drained
	}
	if !drained && (len(r.follows) > 0 || b.packed()) {
		b.abandonRings() // what it did not give back is made available again
		return
	}
	for i, q := range r.queues {
		if q.SetBase(bases[i]); q.Err() != nil {
			b.lose(fmt.Errorf("the back end does not know where it stands: %w", q.Err()))
		}
	}
	for _, f := range r.follows {
		f.stop()
	}
	b.rings = nil
}

// packed reports whether the queues have packed rings. The caller holds mu, and there are rings.
func (b *Backend) packed() bool { return b.want.Features&virtio.FeatureRingPacked != 0 }

// drain waits until a back end that has stopped a queue has given back what it took: some answer before that. Of a packed ring
// only the back end knows.
func drain(q *virtio.Queue, base uint32, limit time.Time) bool {
	if q.Features()&virtio.FeatureRingPacked != 0 {
		return uint16(base) == uint16(base>>16)
	}
	for q.UsedIndex() != uint16(base) {
		if time.Now().After(limit) {
			return false
		}
		time.Sleep(lookEvery)
	}
	return true
}

// lose gives the queues up until the driver starts the device anew. The caller holds mu.
func (b *Backend) lose(err error) {
	b.lost = true
	b.want.Lost(err)
}

// abandonRings sets the queues up to be served by another back end: this one is gone. The caller holds mu.
func (b *Backend) abandonRings() {
	r := b.rings
	b.rings = nil
	for _, f := range r.follows {
		f.stop()
	}
	if b.packed() {
		b.lose(errors.New("the back end is gone, and where it stood in packed virtqueues is not known: the guest has to start the device anew"))
		return
	}
	for i, q := range r.queues {
		if len(r.follows) == 0 {
			q.TakeUsed()
		} else if !r.follows[i].account.TakeOver() {
			b.logf("queue %d: which requests were not done is not known for certain; one of them may never end", q.Index())
		}
	}
}

// follow returns the doorbell to give to the back end: the queue's own, or one that is rung while account is kept.
func (b *Backend) follow(r *rings, q *virtio.Queue) (kick int, err error) {
	if b.cfg.Ordered || b.packed() || r.session.protocol&protocolInflight != 0 {
		return q.KickFD(), nil
	}
	f, err := newFollow(q)
	if err != nil {
		return -1, err
	}
	r.follows = append(r.follows, f)
	return f.bell, nil
}

// lookEvery is how often the rings are looked at while chains are in flight. A back end that gives back less than a queue's
// worth in that time is followed exactly.
const lookEvery = time.Millisecond

// follow keeps account of a queue on a goroutine of its own. Between driver and back end it passes kicks on: that is how it
// hears of new work without a timer that runs for ever.
type follow struct {
	account *virtio.Follower // not the goroutine's after stop
	kicks   *virtio.Kicks
	bell    int // eventfd of the back end
	done    chan struct{}
}

func newFollow(q *virtio.Queue) (*follow, error) {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", os.NewSyscallError("eventfd2", err))
	}
	kicks, err := virtio.NewKicks(q)
	if err != nil {
		unix.Close(bell)
		return nil, err
	}
	f := &follow{account: virtio.NewFollower(q), kicks: kicks, bell: bell, done: make(chan struct{})}
	go f.run()
	return f, nil
}

func (f *follow) run() {
	defer close(f.done)
	for busy := true; ; {
		rang, ok := true, true
		if busy {
			rang, ok = f.kicks.WaitUntil(time.Now().Add(lookEvery))
		} else {
			ok = f.kicks.Wait()
		}
		if !ok {
			return
		}
		if rang {
			unix.Write(f.bell, one)
		}
		busy = f.account.Look()
	}
}

func (f *follow) stop() {
	f.kicks.Close()
	<-f.done
	unix.Close(f.bell)
}
