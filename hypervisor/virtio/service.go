package virtio

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Turn is what a Service's function wants before its next call.
type Turn struct {
	// Blocked says that chains may wait in the queue which the device cannot serve now; only Wake or a kick makes it
	// look again. Without it the function took all there was.
	Blocked bool
	// Until makes it look again at that time at the latest; zero is never.
	Until time.Time
}

// Service serves a queue on a goroutine, for devices whose requests are few. It sleeps in the runtime's poller.
type Service struct {
	env      *Env
	q        *Queue
	turn     func(s *Service, q *Queue) (Turn, error)
	kicks    *Kicks
	stopping atomic.Bool
	done     chan struct{}
}

// Serve starts a service: turn is called at once, at each kick, at each Wake and when its time came. It pops, pushes and
// returns; the service notifies. A driver can make chains as fast as the device takes them, so turn also returns when
// s.Stopping. An error fails the device and ends the service; Stop is needed nevertheless.
func Serve(env *Env, q *Queue, turn func(s *Service, q *Queue) (Turn, error)) (*Service, error) {
	k, err := NewKicks(q)
	if err != nil {
		return nil, err
	}
	s := &Service{env: env, q: q, turn: turn, kicks: k, done: make(chan struct{})}
	go s.run()
	return s, nil
}

func (s *Service) run() {
	defer close(s.done)
	defer s.env.Guard()
	for {
		s.q.DisableKicks()
		t, err := s.turn(s, s.q)
		s.q.Notify()
		if err != nil {
			s.env.Fail(err)
			return
		}
		if s.stopping.Load() {
			return
		}
		if !t.Blocked && s.q.EnableKicks() {
			continue
		}
		ok := false
		if t.Until.IsZero() {
			ok = s.kicks.Wait()
		} else {
			_, ok = s.kicks.WaitUntil(t.Until)
		}
		if !ok {
			return
		}
	}
}

// Wake makes the service call its function again soon. Any goroutine may call it, also after Stop.
func (s *Service) Wake() { unix.Write(s.q.KickFD(), eventOne) }

// Stopping reports whether Stop was called; a function with much to do looks at it now and then.
func (s *Service) Stopping() bool { return s.stopping.Load() }

// Stop ends the service and waits for its function to return. Stopping a nil service does nothing.
func (s *Service) Stop() {
	if s == nil {
		return
	}
	s.stopping.Store(true)
	s.kicks.Close()
	<-s.done
}
