package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"virtd/sasl"
	"virtd/virterr"
)

// Options are a server's limits. Zero values mean the defaults, which are libvirtd's where it has the same setting.
type Options struct {
	MaxClients        int           // connections in all (5000)
	MaxPerUser        int           // connections of one user other than root (500)
	ParallelCalls     int           // calls of one connection that run at once, in each lane (5)
	WaitingCalls      int           // further calls of one connection that are read ahead, in each lane (64)
	KeepaliveInterval time.Duration // silence before a ping (5 s); negative: no pings
	KeepaliveCount    int           // unanswered pings before the connection is closed (5)
	OpenDeadline      time.Duration // from connecting to CONNECT_OPEN, authentication included (60 s)
	MaxAnonymous      int           // connections that have yet to prove who they are (20); one more ends the oldest of them
	AuthFailureDelay  time.Duration // before a failed authentication is answered (1 s); negative: none
	Logger            *slog.Logger  // (slog.Default)
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MaxClients, 5000)
	def(&o.MaxPerUser, 500)
	def(&o.ParallelCalls, 5)
	def(&o.WaitingCalls, 64)
	def(&o.KeepaliveCount, 5)
	def(&o.MaxAnonymous, 20)
	if o.AuthFailureDelay == 0 {
		o.AuthFailureDelay = time.Second
	}
	if o.KeepaliveInterval == 0 {
		o.KeepaliveInterval = 5 * time.Second
	}
	if o.OpenDeadline <= 0 {
		o.OpenDeadline = 60 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// readOnlyMessage is the longest message from a read-only connection, in bytes: it may send documents to compare, no data, and
// everybody on the host may have hundreds of such connections.
const readOnlyMessage = 1 << 20

// refusedMessage is the longest message from a peer that is not admitted, in bytes: it is told so, whatever it says.
const refusedMessage = 64 << 10

// Policy says what connections of one listener may do.
type Policy struct {
	ReadOnly bool
	// Admit is asked once for each connection. Its error answers the client's first call; nil admits everyone.
	Admit func(Peer) error
	// SASL is what clients prove by who they are, before anything else; nil: they need not.
	SASL *sasl.Authenticator
	// Plain says that others can listen to what is said: it goes over a network without encryption.
	Plain bool
}

// messageLimit is the longest message of a connection that is open, in bytes.
func messageLimit(readOnly bool) int {
	if readOnly {
		return readOnlyMessage
	}
	return maxMessage
}

// Server accepts connections and answers calls with the handlers of a registry.
type Server struct {
	registry *Registry
	opts     Options
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc

	mu        sync.Mutex
	conns     map[*Conn]struct{}
	perUser   map[uint32]int
	anonymous []*Conn // have yet to prove who they are, in the order in which they came
	listeners map[net.Listener]struct{}
	closed    bool
	active    sync.WaitGroup // connections being served

	numbers atomic.Uint64 // of connections
	alone   alone
}

// NewServer returns a server that does not listen yet.
func NewServer(registry *Registry, opts Options) *Server {
	opts = opts.withDefaults()
	s := &Server{
		registry: registry, opts: opts, log: opts.Logger,
		conns: map[*Conn]struct{}{}, perUser: map[uint32]int{}, listeners: map[net.Listener]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections until the listener fails or Shutdown is called, when it returns nil.
func (s *Server) Serve(l net.Listener, policy Policy) error {
	if !s.addListener(l) {
		l.Close()
		return nil
	}
	defer s.removeListener(l)
	var pause time.Duration
	for {
		conn, err := l.Accept()
		if err == nil {
			pause = 0
			s.start(conn, policy)
			continue
		}
		if s.stopping() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Most likely out of descriptors: wait for some to be closed.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.log.Warn("cannot accept a connection", "error", err, "retry", pause)
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return nil
		}
	}
}

// ServeConn serves one connection that is made already and returns when it is over.
func (s *Server) ServeConn(conn net.Conn, policy Policy) {
	if c := s.admit(conn, policy); c != nil {
		s.run(c)
	}
}

func (s *Server) start(conn net.Conn, policy Policy) {
	if c := s.admit(conn, policy); c != nil {
		go s.run(c)
	}
}

func (s *Server) run(c *Conn) {
	defer s.active.Done()
	c.serve()
	s.forget(c)
}

// admit makes the connection's state, or closes the connection and returns nil when there are too many.
func (s *Server) admit(conn net.Conn, policy Policy) *Conn {
	c := s.newConn(conn, policy)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.opts.MaxClients {
		s.log.Debug("refused a connection", "peer", c.peer, "clients", len(s.conns))
		c.net.Close()
		return nil
	}
	if c.limitedUser() && s.perUser[c.peer.UID] >= s.opts.MaxPerUser {
		s.log.Debug("refused a connection: user has too many", "peer", c.peer)
		c.net.Close()
		return nil
	}
	s.conns[c] = struct{}{}
	if c.limitedUser() {
		s.perUser[c.peer.UID]++
	}
	if c.auth.needed() {
		s.addAnonymous(c)
	}
	s.active.Add(1)
	return c
}

func (s *Server) newConn(conn net.Conn, policy Policy) *Conn {
	limit := messageLimit(policy.ReadOnly)
	peer := peerOf(conn)
	conn = newLocalConn(conn)
	c := &Conn{
		server: s, number: s.numbers.Add(1), net: conn, peer: peer, plain: policy.Plain,
		streams: map[streamKey]*Stream{}, gone: make(chan struct{}), over: make(chan struct{}),
	}
	c.relay.conn = c
	if c.auth.sasl = policy.SASL; c.auth.needed() {
		limit = unprovenMessage
	}
	for i := range c.lanes {
		c.lanes[i] = newLane(s.opts.ParallelCalls, s.opts.WaitingCalls)
	}
	c.out = newOutbox(conn, func(error) { c.abort() })
	c.readOnly.Store(policy.ReadOnly)
	if policy.Admit != nil {
		if err := policy.Admit(c.peer); err != nil {
			c.refusal = virterr.As(err)
			limit = refusedMessage
		}
	}
	c.reader = NewFrameReader(conn, limit)
	conn.SetReadDeadline(time.Now().Add(s.opts.OpenDeadline))
	return c
}

// limitedUser reports whether the per-user limit applies: root is never locked out by it.
func (c *Conn) limitedUser() bool { return c.peer.Known && c.peer.UID != 0 }

func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.dropAnonymous(c)
	if c.limitedUser() {
		if s.perUser[c.peer.UID]--; s.perUser[c.peer.UID] == 0 {
			delete(s.perUser, c.peer.UID)
		}
	}
}

// addAnonymous counts a connection that has yet to prove who it is. One too many ends the oldest: a stranger who holds
// connections open keeps nobody out. The caller holds s.mu.
func (s *Server) addAnonymous(c *Conn) {
	s.anonymous = append(s.anonymous, c)
	if len(s.anonymous) <= s.opts.MaxAnonymous {
		return
	}
	oldest := s.anonymous[0]
	s.dropAnonymous(oldest)
	s.log.Debug("too many connections that did not authenticate: ending the oldest", "peer", oldest.peer)
	go oldest.abort() // it takes locks
}

// dropAnonymous stops counting a connection. The caller holds s.mu.
func (s *Server) dropAnonymous(c *Conn) {
	if i := slices.Index(s.anonymous, c); i >= 0 {
		s.anonymous = slices.Delete(s.anonymous, i, i+1)
	}
}

func (s *Server) noLongerAnonymous(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropAnonymous(c)
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Clients returns how many connections there are.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// abandonTime is how long calls that did not finish have to answer after their context ended.
const abandonTime = time.Second

// Shutdown stops listening, ends streams with an error that tells why, lets the calls under way finish and closes all
// connections. When ctx ends first the calls' context ends too, so that they answer with what they have, and connections that
// still have calls then are closed; Shutdown returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.CloseWhenIdle()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.active.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	select {
	case <-done:
	case <-time.After(abandonTime):
	}
	s.mu.Lock()
	for c := range s.conns {
		go c.abort()
	}
	s.mu.Unlock()
	return ctx.Err()
}
