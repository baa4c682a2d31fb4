package monitor

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxClients bounds how many serve at once; one more is turned away.
const maxClients = 32

// Server is the monitor of one machine. Its methods are safe for concurrent use.
type Server struct {
	machine Machine
	logf    func(string, ...any)
	listen  *os.File

	mu      sync.Mutex
	clients map[*client]struct{}
	closed  bool
	running sync.WaitGroup
	balloon throttle // a guest can change its balloon's size many thousand times a second
}

// New serves machine on the listening unix stream socket fd, which it takes over.
func New(fd int, machine Machine, logf func(string, ...any)) (*Server, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("monitor socket: %w", err)
	}
	unix.CloseOnExec(fd)
	s := &Server{machine: machine, logf: logf, listen: os.NewFile(uintptr(fd), "monitor"), clients: map[*client]struct{}{}}
	s.balloon.pass = s.emit
	s.running.Add(1)
	go s.accept()
	return s, nil
}

func (s *Server) accept() {
	defer s.running.Done()
	raw, err := s.listen.SyscallConn()
	if err != nil {
		s.logf("monitor: %v", err)
		return
	}
	for {
		fd := -1
		var accepted error
		err := raw.Read(func(l uintptr) bool {
			fd, _, accepted = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return accepted != unix.EAGAIN
		})
		if err != nil {
			return // closed
		}
		if accepted != nil { // out of descriptors, or the client left already
			time.Sleep(10 * time.Millisecond)
			continue
		}
		s.serve(fd)
	}
}

func (s *Server) serve(fd int) {
	c := newClient(s, os.NewFile(uintptr(fd), "monitor client"))
	s.mu.Lock()
	if s.closed || len(s.clients) >= maxClients {
		s.mu.Unlock()
		c.conn.Close()
		return
	}
	s.clients[c] = struct{}{}
	s.running.Add(2)
	s.mu.Unlock()
	go func() { defer s.running.Done(); c.writer() }()
	go func() {
		defer s.running.Done()
		c.reader()
		s.mu.Lock()
		delete(s.clients, c)
		s.mu.Unlock()
	}()
}

// Emit sends an event to every client that has negotiated. It does not block: a client that cannot keep up is dropped.
// BALLOON_CHANGE goes out once a second at most, the last one always.
func (s *Server) Emit(e Event) {
	if e.Name == EventBalloon {
		s.balloon.put(e)
		return
	}
	s.emit(e)
}

func (s *Server) emit(e Event) {
	now := time.Now()
	msg := map[string]any{
		"event":     e.Name,
		"timestamp": map[string]int64{"seconds": now.Unix(), "microseconds": int64(now.Nanosecond() / 1000)},
	}
	if e.Data != nil {
		msg["data"] = e.Data
	}
	line, err := json.Marshal(msg)
	if err != nil {
		s.logf("monitor event %s: %v", e.Name, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if c.negotiated.Load() {
			c.send(line)
		}
	}
}

// Close tells clients nothing more, waits a moment for what was sent to leave, and ends.
func (s *Server) Close() {
	s.balloon.close()
	s.mu.Lock()
	s.closed = true
	for c := range s.clients {
		c.finish()
	}
	s.mu.Unlock()
	s.listen.Close()
	s.running.Wait()
}
