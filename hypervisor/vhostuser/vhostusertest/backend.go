package vhostusertest

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// Requests, by the numbers of the specification.
const (
	GetFeatures         = 1
	SetFeatures         = 2
	SetOwner            = 3
	SetMemTable         = 5
	SetLogBase          = 6
	SetVringNum         = 8
	SetVringAddr        = 9
	SetVringBase        = 10
	GetVringBase        = 11
	SetVringKick        = 12
	SetVringCall        = 13
	GetProtocolFeatures = 15
	SetProtocolFeatures = 16
	GetQueueNum         = 17
	SetVringEnable      = 18
	NetSetMTU           = 20
	GetConfig           = 24
	SetConfig           = 25
	GetInflightFD       = 31
	SetInflightFD       = 32
)

// Features.
const (
	FeatureLogAll    uint64 = 1 << 26
	FeatureProtocol  uint64 = 1 << 30
	ProtocolMQ       uint64 = 1 << 0
	ProtocolLogShmfd uint64 = 1 << 1
	ProtocolReplyAck uint64 = 1 << 3
	ProtocolMTU      uint64 = 1 << 4
	ProtocolConfig   uint64 = 1 << 9
	ProtocolInflight uint64 = 1 << 12
)

const (
	headerSize = 12
	replyFlags = 1 | 1<<2 // version 1, a reply
	needReply  = 1 << 3
)

// Config is what a back end can do.
type Config struct {
	Features uint64 // virtio features; FeatureProtocol where there is Protocol
	Protocol uint64
	Queues   uint64 // GET_QUEUE_NUM
	Space    []byte // configuration space
	// Serve works on a chain of a queue and reports whether it is given back now, with how many bytes written. What is kept
	// stays in flight.
	Serve func(queue int, c *virtio.Chain) (written uint32, giveBack bool)
	// Fill is Serve for the queues whose chains wait for something: it returns when that came, or gives up when stop is
	// closed. Nil where there are none; else it has the queues with even numbers, where network devices receive.
	Fill func(c *virtio.Chain, stop <-chan struct{}) (written uint32, ok bool)
	// Answer replaces the answer to a request: raw is sent as it is, with descriptors fds, which it closes. Without ok the
	// request is answered as it should be. It may end the connection by returning ok and nothing.
	Answer func(request uint32, payload []byte) (raw []byte, fds []int, ok bool)
}

// Backend serves one connection.
type Backend struct {
	cfg    Config
	socket *net.UnixConn
	done   chan struct{}

	mu       sync.Mutex
	requests []uint32
	accepted uint64
	protocol uint64
	regions  []region
	mem      *memory.Memory
	rings    map[uint32]*ring
	account  *os.File // of SET_INFLIGHT_FD
	space    []byte
	mtu      uint64
	logs     [][]byte // mappings
	log      atomic.Pointer[[]byte]
}

type region struct {
	user uint64
	mem  memory.Region
}

type ring struct {
	num, base         uint32
	desc, used, avail uint64 // addresses of the front end
	kick, call        int
	enabled           bool
	queue             *virtio.Queue
	kicks             *virtio.Kicks
	stopping, done    chan struct{}
}

// Pair returns a back end and the descriptor of the front end's side of its connection.
func Pair(t testing.TB, cfg Config) (*Backend, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "back end")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	b := Serve(c.(*net.UnixConn), cfg)
	t.Cleanup(b.Kill)
	return b, fds[1]
}

// Serve makes the back end of a connection. Kill ends it.
func Serve(c *net.UnixConn, cfg Config) *Backend {
	b := &Backend{cfg: cfg, socket: c, done: make(chan struct{}), rings: map[uint32]*ring{}, space: append([]byte(nil), cfg.Space...)}
	go b.run()
	return b
}

// Kill ends the back end as SIGKILL would: what is in flight is not given back, and nothing is said.
func (b *Backend) Kill() {
	b.socket.Close()
	<-b.done
}

// Done is closed when the back end has ended.
func (b *Backend) Done() <-chan struct{} { return b.done }

// Requests returns which requests came so far.
func (b *Backend) Requests() []uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]uint32(nil), b.requests...)
}

// Accepted returns the virtio features that the driver accepted.
func (b *Backend) Accepted() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accepted
}

// MTU returns what NET_SET_MTU told.
func (b *Backend) MTU() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mtu
}

// Space returns the configuration space, with what SET_CONFIG changed.
func (b *Backend) Space() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]byte(nil), b.space...)
}

// Enabled returns how many rings run and are enabled.
func (b *Backend) Enabled() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.rings {
		if r.queue != nil && (r.enabled || b.accepted&FeatureProtocol == 0) {
			n++
		}
	}
	return n
}

// Base returns where a ring started.
func (b *Backend) Base(queue int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.rings[uint32(queue)]; r != nil {
		return int(r.base)
	}
	return -1
}

// Account returns the file in which requests in flight are noted, nil for none.
func (b *Backend) Account() *os.File {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.account
}

func (b *Backend) run() {
	defer close(b.done)
	defer b.stop()
	defer b.socket.Close()
	for {
		request, flags, payload, fds, err := b.receive()
		if err != nil {
			return
		}
		if err := b.answer(request, flags, payload, fds); err != nil {
			return
		}
	}
}

// stop ends all rings and lets go of the memory.
func (b *Backend) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.rings {
		r.stop()
		closeFD(r.kick)
		closeFD(r.call)
	}
	b.unmap()
	for _, l := range b.logs {
		unix.Munmap(l)
	}
	if b.account != nil {
		b.account.Close()
	}
}

func (b *Backend) unmap() {
	for _, r := range b.regions {
		unix.Munmap(r.mem.Host)
	}
	b.regions, b.mem = nil, nil
}

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

func (b *Backend) receive() (request, flags uint32, payload []byte, fds []int, err error) {
	header := make([]byte, headerSize)
	oob := make([]byte, unix.CmsgSpace(4*16))
	n, oobn, _, _, err := b.socket.ReadMsgUnix(header, oob)
	if err != nil || n != headerSize {
		return 0, 0, nil, nil, fmt.Errorf("%d bytes of a header: %w", n, err)
	}
	if list, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range list {
			got, _ := unix.ParseUnixRights(&list[i])
			fds = append(fds, got...)
		}
	}
	le := binary.LittleEndian
	payload = make([]byte, le.Uint32(header[8:]))
	for at := 0; at < len(payload); at += n {
		if n, err = b.socket.Read(payload[at:]); err != nil {
			return 0, 0, nil, nil, err
		}
	}
	return le.Uint32(header), le.Uint32(header[4:]), payload, fds, nil
}

// Message encodes a message of a back end.
func Message(request, flags uint32, payload []byte) []byte {
	le := binary.LittleEndian
	m := le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, request), flags), uint32(len(payload)))
	return append(m, payload...)
}

// Reply encodes a reply to a request.
func Reply(request uint32, payload []byte) []byte { return Message(request, replyFlags, payload) }

// Word is a payload of one number.
func Word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func (b *Backend) answer(request, flags uint32, payload []byte, fds []int) error {
	if b.cfg.Answer != nil {
		raw, out, ok := b.cfg.Answer(request, payload)
		if ok {
			var oob []byte
			if len(out) > 0 {
				oob = unix.UnixRights(out...)
			}
			var err error
			if len(raw) == 0 {
				err = net.ErrClosed
			} else {
				_, _, err = b.socket.WriteMsgUnix(raw, oob, nil)
			}
			for _, fd := range append(out, fds...) {
				unix.Close(fd)
			}
			return err
		}
	}
	b.mu.Lock()
	b.requests = append(b.requests, request)
	reply, fd, err := b.handle(request, payload, fds)
	b.mu.Unlock()
	switch {
	case err != nil:
		return err
	case reply != nil:
	case flags&needReply != 0:
		reply = Word(0)
	default:
		return nil
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err = b.socket.WriteMsgUnix(Reply(request, reply), oob, nil)
	closeFD(fd)
	return err
}
