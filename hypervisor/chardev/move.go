package chardev

import (
	"time"

	"golang.org/x/sys/unix"
)

// stuckAfter is how long a peer that is there but does not read may hold up the guest's output; after it the output is
// dropped until the peer reads again.
const stuckAfter = time.Second

// writer moves output to the log and to the peer.
func (p *Port) writer() {
	defer p.running.Done()
	defer close(p.written)
	for {
		select {
		case <-p.done:
			p.flush()
			return
		case <-p.work:
		}
		for p.flush() {
		}
	}
}

// flush moves what waits now and reports whether there was anything.
func (p *Port) flush() bool {
	p.mu.Lock()
	batch := p.out
	p.out, p.spare = p.spare[:0], nil
	peer := p.peer
	p.mu.Unlock()
	if len(batch) > 0 {
		p.log.write(batch)
		if peer != nil && peer.present() {
			p.deliver(peer, batch)
		}
	}
	p.mu.Lock()
	p.spare = batch[:0]
	drained := p.full
	p.full = false
	p.mu.Unlock()
	if drained {
		p.front.Drained()
	}
	return len(batch) > 0
}

func (p *Port) deliver(peer peer, batch []byte) {
	for len(batch) > 0 {
		n, err := peer.write(batch)
		if err != nil || n <= 0 {
			return
		}
		batch = batch[n:]
	}
}

// reader moves input until the peer is gone.
func (p *Port) reader(peer peer) {
	buf := make([]byte, 4096)
	p.tell(peer.present())
	for {
		room := p.front.Room()
		for room == 0 {
			select {
			case <-p.done:
				return
			case <-p.ready:
			}
			room = p.front.Room()
		}
		n, err := peer.read(buf[:min(room, len(buf))])
		if err != nil {
			p.tell(false)
			return
		}
		p.tell(peer.present())
		if n > 0 {
			p.front.Receive(buf[:n])
		}
	}
}

// tell passes a change of connection on to the front end.
func (p *Port) tell(yes bool) {
	p.mu.Lock()
	changed := p.connected != yes && !p.closed
	p.connected = yes
	p.mu.Unlock()
	if changed {
		p.front.Connected(yes)
	}
}

// accept serves one client after the other on a listening socket.
func (p *Port) accept() {
	defer p.running.Done()
	raw, err := p.listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		fd := -1
		err := raw.Read(func(l uintptr) bool {
			var e error
			fd, _, e = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return e != unix.EAGAIN
		})
		if err != nil {
			return // closed
		}
		if fd < 0 {
			continue
		}
		client, err := newPeer(Unix, fd, nil)
		if err != nil {
			unix.Close(fd)
			continue
		}
		if !p.attach(client) {
			client.close()
			return
		}
		p.reader(client)
		p.detach(client)
	}
}

func (p *Port) attach(c peer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.peer = c
	return true
}

func (p *Port) detach(c peer) {
	p.mu.Lock()
	p.peer = nil
	p.mu.Unlock()
	c.close()
}
