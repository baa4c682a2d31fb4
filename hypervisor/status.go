package hypervisor

import "sync"

// statusWord is the machine's state for those who only look: they never wait for a change in progress.
type statusWord struct {
	mu     sync.Mutex
	state  State
	reason string
}

func (s *statusWord) set(state State, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.reason = state, reason
}

func (s *statusWord) get() (State, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.reason
}

// Status returns the state and, where there is one, the reason.
func (m *Machine) Status() (State, string) { return m.status.get() }
