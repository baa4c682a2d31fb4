package rpc

import (
	"encoding/binary"
	"sync"
	"time"
)

// The keepalive procedures; both are messages without payload and with serial 0.
const (
	keepalivePing = 1
	keepalivePong = 2
)

// keepalive watches a client that said it answers pings. Silence for one interval sends a ping; count intervals of silence
// beyond that end the connection.
type keepalive struct {
	mu       sync.Mutex
	timer    *time.Timer
	interval time.Duration
	count    int
	missed   int
	stopped  bool
}

// EnableKeepalive starts to ping the client. libvirt's clients ask for the feature before the server may ping.
func (c *Conn) EnableKeepalive() {
	k := &c.alive
	k.mu.Lock()
	defer k.mu.Unlock()
	k.interval, k.count = c.server.opts.KeepaliveInterval, c.server.opts.KeepaliveCount
	if k.stopped || k.timer != nil || k.interval <= 0 {
		return
	}
	k.timer = time.AfterFunc(k.interval, c.ping)
}

// ping runs when an interval passed without a message from the client.
func (c *Conn) ping() {
	k := &c.alive
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return
	}
	if k.missed >= k.count {
		c.server.log.Info("client does not answer keepalive, disconnecting it", "peer", c.peer)
		k.stopped = true
		go c.abort()
		return
	}
	k.missed++
	c.sendKeepalive(keepalivePing)
	k.timer.Reset(k.interval)
}

// heard notes that the client is alive.
func (k *keepalive) heard() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missed = 0
	if k.timer != nil && !k.stopped {
		k.timer.Reset(k.interval)
	}
}

func (k *keepalive) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	if k.timer != nil {
		k.timer.Stop()
	}
}

// keepaliveMessage answers a ping at once, whatever calls are doing.
func (c *Conn) keepaliveMessage(h Header) error {
	if h.Type == TypeMessage && h.Procedure == keepalivePing {
		c.sendKeepalive(keepalivePong)
	}
	return nil
}

// sendKeepalive does not block. A client so far behind that its answer finds no room is not kept alive by it.
func (c *Conn) sendKeepalive(procedure uint32) {
	h := Header{Program: ProgramKeepalive, Version: programVersion, Procedure: procedure, Type: TypeMessage}
	buf := getBuffer()
	*buf = AppendMessage(*buf, h)
	binary.BigEndian.PutUint32(*buf, uint32(len(*buf)))
	c.out.post(outMessage{buf: buf}, outboxStream)
}
