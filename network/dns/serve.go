package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// ServeUDP answers the questions that come to a socket until that fails. What the network knows is answered at once; questions
// for others have a goroutine each, within the bounds, and are dropped beyond them: guests ask again.
func (r *Resolver) ServeUDP(conn *net.UDPConn) error {
	buf := make([]byte, maxMessage+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil || n > maxMessage {
			continue // such as an answer that nobody took
		}
		q, reply := look(buf[:n], from.Addr().Unmap(), false)
		if q != nil {
			if reply = r.answerLocal(q); reply == nil {
				r.forwardUDP(conn, from, q)
				continue
			}
		}
		if reply != nil {
			_, _ = conn.WriteToUDPAddrPort(reply, from) // who is gone asks again
		}
	}
}

func (r *Resolver) forwardUDP(conn *net.UDPConn, from netip.AddrPort, q *question) {
	done, ok := r.enter(q.from)
	if !ok {
		return
	}
	q.raw = append([]byte(nil), q.raw...)
	go func() {
		defer done()
		if reply := r.forward(context.Background(), q); reply != nil {
			_, _ = conn.WriteToUDPAddrPort(reply, from)
		}
	}()
}

// enter takes a place among the questions under way; done gives it back.
func (r *Resolver) enter(a netip.Addr) (done func(), ok bool) {
	if !r.clients.take(a) {
		return nil, false
	}
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots; r.clients.give(a) }, true
	default:
		r.clients.give(a)
		return nil, false
	}
}

// ServeTCP answers the questions that come by connections until the listener fails.
func (r *Resolver) ServeTCP(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors, for now
			continue
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		done, ok := func() {}, false
		if err == nil {
			done, ok = r.enter(from.Addr().Unmap())
		}
		if !ok {
			conn.Close()
			continue
		}
		go func() {
			defer done()
			defer conn.Close()
			r.serveConn(conn, from.Addr().Unmap())
		}()
	}
}

func (r *Resolver) serveConn(conn net.Conn, from netip.Addr) {
	buf := make([]byte, maxMessage)
	for {
		if conn.SetDeadline(time.Now().Add(idleTime)) != nil {
			return
		}
		n, err := readTCP(conn, buf)
		if err != nil {
			return
		}
		reply := r.Answer(context.Background(), buf[:n], from, true)
		if reply == nil || writeTCP(conn, reply) != nil {
			return
		}
	}
}
