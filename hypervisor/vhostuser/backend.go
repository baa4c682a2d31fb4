package vhostuser

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// ErrPrivate is returned (wrapped) for guest RAM that no other process can map.
var ErrPrivate = errors.New("guest RAM is not shared memory, which a vhost-user device needs: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>")

// patience is how long a back end may take, before it is given up.
type patience struct {
	hello time.Duration // to negotiate
	start time.Duration // to map guest RAM and to start all rings
	stop  time.Duration // to stop them: a vCPU waits for that
	pause time.Duration // between a connection that came to nothing and the next
}

var usual = patience{hello: 5 * time.Second, start: 30 * time.Second, stop: 3 * time.Second, pause: time.Second} // tests have other

// Config describes what a device wants of its back end.
type Config struct {
	Name       string // alias, for messages
	Queues     int    // the least that the back end must serve: pairs for a network device, else virtqueues
	ConfigSize int    // bytes of configuration space that come from the back end; 0 is none
	// Ordered says that chains come back in the order in which they were made available, as packets do. Else the back end
	// keeps account of what it works on, or, where it cannot, Backend does.
	Ordered bool
	MTU     int // told to a back end that wants to know; 0 is not
	// Changed is called when the back end came or went, from a goroutine of Backend's: the rings are served, or stand still.
	// It must not call Stop or Close.
	Changed func(connected bool)
	// Log takes what the host's administrator should know; a back end that fails again and again costs a few lines each hour.
	Log func(format string, args ...any)
}

// Setup is a device that a driver has started.
type Setup struct {
	Memory   *memory.Memory
	Features uint64          // accepted by the driver
	Queues   []*virtio.Queue // that the back end serves, by index; nil where the driver has none
	Enabled  int             // how many of Queues are in use, from the first on; SetEnabled changes it
	// Lost is called, from any goroutine, when nobody can serve the queues on before the driver starts the device anew: a back
	// end is gone, and where it stood in a packed ring cannot be read from there. It must not call Backend, and may be nil for
	// split rings.
	Lost func(error)
}

// Backend is a process that serves the rings of one device, over all its connections. Its methods are safe for concurrent
// use and only Stop, Replace and Close wait for the process: never longer than its patience.
type Backend struct {
	cfg      Config
	limits   patience
	listener *net.UnixListener // nil: others bring connections, by Replace
	features uint64            // of the first connection, which every other must have
	queues   int               // likewise
	accounts bool              // likewise: it keeps account of what it works on
	config   atomic.Pointer[[]byte]
	enabled  atomic.Int32
	wake     chan struct{} // something is to be done
	vacant   chan struct{} // there is no connection
	closed   chan struct{}
	closing  sync.Once
	work     sync.WaitGroup
	lines    budget

	current atomic.Pointer[session] // the connection, nil for none

	mu      sync.Mutex // held while the back end is told something
	want    *Setup     // nil while stopped
	rings   *rings     // nil unless the back end serves them
	account *inflight  // the back end's own, of this activation
	lost    bool       // the queues cannot be served on, in this activation
	log     *dirtyLog  // nil unless it is noted what the back end writes

	writeMu sync.Mutex
	writes  []configWrite // not told yet

	reportMu sync.Mutex
	reported bool // what Changed was last told
}

// configWrite is what a driver wrote to the configuration space.
type configWrite struct {
	offset int
	data   []byte
}

// maxWrites is how many writes of the configuration space wait for the back end; a driver that makes more loses the first.
const maxWrites = 8

// New takes over conn, a connected stream socket, and listen, a listening one to which later back ends connect; -1 is none.
// On error both are closed. The first back end says what the device is: later ones must be able to do the same.
func New(conn, listen int, cfg Config) (*Backend, error) {
	b := &Backend{
		cfg: cfg, limits: usual, wake: make(chan struct{}, 1), vacant: make(chan struct{}, 1), closed: make(chan struct{}), lines: newBudget(),
	}
	if b.cfg.Log == nil {
		b.cfg.Log = func(string, ...any) {}
	}
	if b.cfg.Changed == nil {
		b.cfg.Changed = func(bool) {}
	}
	if err := b.listen(listen); err != nil {
		unix.Close(conn)
		return nil, fmt.Errorf("%s: %w", cfg.Name, err)
	}
	s, err := b.greet(conn)
	if err != nil {
		if b.listener != nil {
			b.listener.Close()
		}
		return nil, fmt.Errorf("%s: %w", cfg.Name, err)
	}
	b.features, b.queues, b.reported = s.features&^featureProtocol, s.queues, true
	b.accounts = s.protocol&protocolInflight != 0
	b.install(s)
	b.work.Go(b.run)
	if b.listener != nil {
		b.work.Go(b.accept)
	}
	return b, nil
}

// listen takes over a listening socket.
func (b *Backend) listen(fd int) error {
	if fd < 0 {
		return nil
	}
	f := os.NewFile(uintptr(fd), "vhost-user listener")
	defer f.Close() // FileListener has duplicated it
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("use the listening socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return errors.New("the listening socket is no UNIX socket")
	}
	ul.SetUnlinkOnClose(false) // whoever made the file removes it
	b.listener = ul
	return nil
}

// greet negotiates with a new back end.
func (b *Backend) greet(fd int) (*session, error) {
	c, err := newConn(fd)
	if err != nil {
		return nil, err
	}
	c.patience(b.limits.hello)
	s, err := negotiate(c, b.cfg)
	if err != nil {
		c.close()
		return nil, err
	}
	return s, nil
}

// install makes a connection the current one.
func (b *Backend) install(s *session) {
	if s.config != nil {
		b.config.Store(&s.config)
	}
	b.current.Store(s)
	b.work.Go(func() { b.watch(s) })
	b.poke()
}

// Features returns the virtio features of the back end, for the rings and for the device.
func (b *Backend) Features() uint64 { return b.features }

// Queues returns how many the back end serves at most, in units of Config.Queues.
func (b *Backend) Queues() int { return b.queues }

// Connected reports whether there is a back end.
func (b *Backend) Connected() bool { return b.current.Load() != nil }

// ConfigSpace returns the configuration space as the back end last told it. The caller must not change it.
func (b *Backend) ConfigSpace() []byte {
	if p := b.config.Load(); p != nil {
		return *p
	}
	return nil
}

// WriteConfig passes on what a driver wrote to the configuration space.
func (b *Backend) WriteConfig(offset int, p []byte) {
	b.writeMu.Lock()
	defer b.writeMu.Unlock()
	if len(b.writes) == maxWrites {
		b.writes = b.writes[1:]
	}
	b.writes = append(b.writes, configWrite{offset, append([]byte(nil), p...)})
	b.poke()
}

// takeWrites returns what drivers wrote to the configuration space since the last call.
func (b *Backend) takeWrites() []configWrite {
	b.writeMu.Lock()
	defer b.writeMu.Unlock()
	w := b.writes
	b.writes = nil
	return w
}

// Start has the back end serve the queues from their Base on, now or as soon as there is one. Nobody else may use them
// until Stop.
func (b *Backend) Start(s Setup) error {
	if err := CheckMemory(s.Memory); err != nil {
		return fmt.Errorf("%s: %w", b.cfg.Name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.want != nil {
		return fmt.Errorf("%s: started twice", b.cfg.Name)
	}
	b.enabled.Store(int32(s.Enabled))
	b.want = &s
	b.poke()
	return nil
}

// SetEnabled says how many of the queues are in use from now on.
func (b *Backend) SetEnabled(n int) {
	b.enabled.Store(int32(n))
	b.poke()
}

// Stop takes the queues back, with their Base where the back end stood. A back end that does not answer is disconnected.
func (b *Backend) Stop() {
	limit := time.Now().Add(b.limits.stop)
	var late *time.Timer
	if s := b.current.Load(); s != nil {
		late = time.AfterFunc(b.limits.stop, func() { s.fail(errSilent) })
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rings != nil {
		b.rings.session.patience(time.Until(limit))
		b.stopRings()
	}
	b.want = nil
	if late != nil {
		late.Stop()
	}
}

// Forget is Stop for a device whose driver is gone: nothing is in flight any more.
func (b *Backend) Forget() {
	b.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account.drop()
	b.account, b.lost = nil, false
	b.takeWrites()
}

// watch deals with the end of a connection.
func (b *Backend) watch(s *session) {
	<-s.down
	b.mu.Lock()
	if b.rings != nil && b.rings.session == s {
		b.abandonRings()
	}
	b.current.CompareAndSwap(s, nil)
	b.mu.Unlock()
	s.close()
	select {
	case <-b.closed:
		return
	default:
	}
	b.logf("the back end is gone: %v; the device waits for another", s.reason())
	b.report()
	select {
	case b.vacant <- struct{}{}:
	default:
	}
}

// report tells Changed what is true by now.
func (b *Backend) report() {
	b.reportMu.Lock()
	defer b.reportMu.Unlock()
	if now := b.Connected(); now != b.reported {
		b.reported = now
		b.cfg.Changed(now)
	}
}

func (b *Backend) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run does what the others ask for and do not wait for.
func (b *Backend) run() {
	for {
		select {
		case <-b.closed:
			return
		case <-b.wake:
		}
		b.mu.Lock()
		b.converge()
		b.mu.Unlock()
	}
}

// converge makes the back end do what is wanted. The caller holds mu.
func (b *Backend) converge() {
	s := b.current.Load()
	if s == nil || b.want == nil || b.lost {
		return
	}
	s.patience(b.limits.start)
	err := b.startRings(s)
	for _, w := range b.takeWrites() {
		if err == nil {
			err = b.tellConfig(s, w)
		}
	}
	if err == nil {
		err = b.rings.enable(int(b.enabled.Load()))
	}
	if err != nil { // the connection is over, and watch does the rest
		s.fail(err)
	}
}

// tellConfig writes to the configuration space and reads back what came of it.
func (b *Backend) tellConfig(s *session, w configWrite) error {
	if s.protocol&protocolConfig == 0 {
		return nil
	}
	if err := s.set(setConfig, configSpace(w.offset, w.data)); err != nil {
		return err
	}
	config, err := s.readConfig(b.cfg.ConfigSize)
	if err == nil {
		b.config.Store(&config)
	}
	return err
}

// Close stops, and ends the connection. The device is not active.
func (b *Backend) Close() {
	b.Forget()
	if err := b.StopLog(); err != nil {
		b.logf("%v", err)
	}
	b.reportMu.Lock() // no connection comes after this
	b.closing.Do(func() { close(b.closed) })
	b.reportMu.Unlock()
	if b.listener != nil {
		b.listener.Close()
	}
	if s := b.current.Load(); s != nil {
		s.fail(net.ErrClosed)
	}
	b.work.Wait()
}

func (b *Backend) logf(format string, args ...any) {
	if b.lines.take() {
		b.cfg.Log("%s: "+format, append([]any{b.cfg.Name}, args...)...)
	}
}
