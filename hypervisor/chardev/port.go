package chardev

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Types of Config.Type, as in libvirt's domain XML.
const (
	PTY  = "pty"
	Unix = "unix"
	File = "file"
	Null = "null"
)

// Config names the descriptors of a port. The port owns and closes them.
type Config struct {
	Type     string
	FD       int   // not used for Null
	Listener bool  // Unix: FD is a listening socket, else a connected one
	Logs     []int // none, one, or two files that take turns
	LogMax   int64 // bytes of one log file before the other is begun anew; 0 is unlimited
}

// FrontEnd is the guest's side. The port calls it from its own goroutines, one call of Receive at a time.
type FrontEnd interface {
	// Room returns how many bytes Receive can take now.
	Room() int
	// Receive takes input; len(p) is at most what Room returned.
	Receive(p []byte)
	// Drained says that Write has room again after it took less than it was given.
	Drained()
	// Connected says that somebody is, or is no longer, at the other end.
	Connected(yes bool)
}

// bufferSize is how much output waits for a slow other end before Write takes no more.
const bufferSize = 64 << 10

// Port is one host side. Its methods are safe for concurrent use.
type Port struct {
	cfg   Config
	front FrontEnd
	log   *logFiles

	mu        sync.Mutex
	out       []byte // output that the writer has not taken yet
	spare     []byte // the other half of the writer's double buffer
	full      bool   // a Write took less than it was given
	peer      peer   // nil when there is nobody
	connected bool   // the last that the front end heard
	closed    bool
	work      chan struct{} // wakes the writer
	ready     chan struct{} // wakes the reader: the front end has room
	done      chan struct{}
	written   chan struct{} // closed when the writer has ended
	running   sync.WaitGroup
	listener  *os.File
}

// peer is a connected other end.
type peer interface {
	// write sends p, waiting as needed; it returns early when the peer goes away.
	write(p []byte) (int, error)
	// read waits for input. It returns an error when the peer is gone for good.
	read(p []byte) (int, error)
	// present reports whether output reaches anybody.
	present() bool
	close() error
}

// New makes a port. Nothing happens before Start.
func New(c Config) (*Port, error) {
	p := &Port{cfg: c, work: make(chan struct{}, 1), ready: make(chan struct{}, 1), done: make(chan struct{}), written: make(chan struct{})}
	switch c.Type {
	case PTY, Unix, File, Null:
	default:
		return nil, fmt.Errorf("character device of type %q: this engine has pty, unix, file and null", c.Type)
	}
	var err error
	if p.log, err = newLogFiles(c.Logs, c.LogMax); err != nil {
		return nil, err
	}
	switch {
	case c.Type == Null:
	case c.Type == Unix && c.Listener:
		if err := unix.SetNonblock(c.FD, true); err != nil {
			return nil, fmt.Errorf("listening socket: %w", err)
		}
		p.listener = os.NewFile(uintptr(c.FD), "console listener")
	default:
		if p.peer, err = newPeer(c.Type, c.FD, func() { p.tell(false) }); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Start connects the front end and begins to move bytes. Call it once.
func (p *Port) Start(f FrontEnd) {
	p.front = f
	p.running.Add(1)
	go p.writer()
	if p.listener != nil {
		p.running.Add(1)
		go p.accept()
	} else if p.peer != nil && p.cfg.Type != File {
		p.running.Add(1)
		go func() { defer p.running.Done(); p.reader(p.peer) }()
	}
}

// Type returns the kind of the port; Connected whether output reaches anybody.
func (p *Port) Type() string { return p.cfg.Type }

// Connected reports whether somebody is at the other end.
func (p *Port) Connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peer != nil && p.peer.present()
}

// Write takes guest output and never blocks. It returns how many bytes it took; when that is less than len(b) the front
// end hears Drained later. It does not allocate once the buffers have grown.
func (p *Port) Write(b []byte) int {
	p.mu.Lock()
	n := min(len(b), bufferSize-len(p.out))
	if n < len(b) {
		p.full = true
	}
	wake := len(p.out) == 0 && n > 0 && !p.closed
	p.out = append(p.out, b[:n]...)
	p.mu.Unlock()
	if wake {
		poke(p.work)
	}
	return n
}

// Ready says that the front end, whose Room was 0, has room again.
func (p *Port) Ready() { poke(p.ready) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close sends what waits, for a moment at most, ends the goroutines and closes the descriptors.
func (p *Port) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	close(p.done)
	if p.front != nil {
		<-p.written
	}
	p.mu.Lock()
	peer := p.peer
	p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
	}
	if peer != nil {
		peer.close()
	}
	p.running.Wait()
	return p.log.close()
}
