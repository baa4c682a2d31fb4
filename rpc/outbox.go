package rpc

import (
	"net"
	"os"
	"sync"
	"syscall"
)

// The bounds of what waits to be sent to one client, in bytes.
const (
	outboxReplies = 8 << 20  // a reply waits beyond this; one larger message is always admitted alone
	outboxStream  = 1 << 20  // stream data waits beyond this: the flow control of streams
	outboxEvents  = 16 << 20 // a client that is so far behind with its events is disconnected
)

// shortMessage is the most that is copied to a socket without the scheduler's knowledge, in bytes.
const shortMessage = 16 << 10

// outMessage is one complete message. The outbox owns both fields.
type outMessage struct {
	buf   *[]byte
	files []*os.File
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= keepBody {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// outbox holds what is to be sent on one connection, in order. Whoever may block sends by itself when nobody else is
// sending; events and keepalives, whose senders must not block, are sent by the outbox's own goroutine.
type outbox struct {
	conn    net.Conn
	unix    *socket     // conn, for short messages
	fail    func(error) // called once, when sending fails
	mu      sync.Mutex
	space   sync.Cond // signalled when bytes falls or closed is set
	queue   []outMessage
	bytes   int
	sending bool
	closed  bool
	wake    chan struct{}
}

func newOutbox(conn net.Conn, fail func(error)) *outbox {
	o := &outbox{conn: conn, unix: newSocket(conn), fail: fail, wake: make(chan struct{}, 1)}
	o.space.L = &o.mu
	return o
}

// run sends what nobody else does, until the outbox is closed.
func (o *outbox) run() {
	for range o.wake {
		o.mu.Lock()
		if !o.sending {
			o.flush()
		}
		o.mu.Unlock()
	}
}

// send queues a message and waits while more than bound bytes are queued. It reports whether the outbox was open.
func (o *outbox) send(m outMessage, bound int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.bytes > bound && !o.closed {
		o.space.Wait()
	}
	if !o.push(m) {
		return false
	}
	if !o.sending {
		o.flush()
	}
	return true
}

// idle reports whether everything queued was sent.
func (o *outbox) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.sending && len(o.queue) == 0
}

// post queues a message without waiting. It reports false when the client is more than bound bytes behind.
func (o *outbox) post(m outMessage, bound int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bytes > bound {
		m.release()
		return false
	}
	if o.push(m) && !o.sending {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func (o *outbox) push(m outMessage) bool {
	if o.closed {
		m.release()
		return false
	}
	o.queue = append(o.queue, m)
	o.bytes += len(*m.buf)
	return true
}

// flush sends until the queue is empty. The caller holds mu, which is released while bytes are written.
func (o *outbox) flush() {
	o.sending = true
	for len(o.queue) > 0 && !o.closed {
		batch := o.queue
		o.queue = nil
		o.mu.Unlock()
		n, err := o.write(batch)
		for i := range batch {
			batch[i].release()
		}
		o.mu.Lock()
		o.bytes -= n
		if o.queue == nil {
			clear(batch)
			o.queue = batch[:0]
		}
		o.space.Broadcast()
		if err != nil {
			o.closeLocked()
			go o.fail(err) // it takes locks that our caller may hold
		}
	}
	o.sending = false
	o.space.Broadcast()
}

// write sends a batch and returns its size. Short messages to a unix socket leave in one piece, others as one vector, where
// the connection takes one and no descriptors interrupt it.
func (o *outbox) write(batch []outMessage) (int, error) {
	total, files := 0, false
	for i := range batch {
		total += len(*batch[i].buf)
		files = files || batch[i].files != nil
	}
	switch {
	case o.unix != nil && total <= shortMessage && !files:
		for _, m := range batch[1:] {
			*batch[0].buf = append(*batch[0].buf, *m.buf...)
		}
		return total, o.unix.send(*batch[0].buf)
	case len(batch) == 1 && !files:
		_, err := o.conn.Write(*batch[0].buf)
		return total, err
	}
	var vec net.Buffers
	for i := range batch {
		vec = append(vec, *batch[i].buf)
		if batch[i].files == nil {
			continue
		}
		if _, err := vec.WriteTo(o.conn); err != nil {
			return total, err
		}
		vec = nil
		if err := sendFiles(o.conn, batch[i].files); err != nil {
			return total, err
		}
	}
	_, err := vec.WriteTo(o.conn)
	return total, err
}

// sendFiles sends each descriptor with one byte of its own, as libvirt expects after the message.
func sendFiles(conn net.Conn, files []*os.File) error {
	unix, ok := conn.(interface {
		WriteMsgUnix(b, oob []byte, addr *net.UnixAddr) (n, oobn int, err error)
	})
	if !ok {
		return rpcError("file descriptors need a unix socket")
	}
	for _, f := range files {
		if _, _, err := unix.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(f.Fd())), nil); err != nil {
			return err
		}
	}
	return nil
}

func (m *outMessage) release() {
	putBuffer(m.buf)
	for _, f := range m.files {
		f.Close()
	}
	m.buf, m.files = nil, nil
}

// drain waits until everything queued is sent or the outbox is closed.
func (o *outbox) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for (o.sending || len(o.queue) > 0) && !o.closed {
		if !o.sending {
			o.flush()
			continue
		}
		o.space.Wait()
	}
}

// close drops what is queued and ends run. It may be called more than once.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeLocked()
}

func (o *outbox) closeLocked() {
	if o.closed {
		return
	}
	o.closed = true
	for i := range o.queue {
		o.queue[i].release()
	}
	o.queue = nil
	close(o.wake)
	o.space.Broadcast()
}
