package tftp

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Bounds of what guests can cause.
const (
	maxTransfers = 64
	maxPerClient = 8
	firstTimeout = time.Second
	retries      = 6
	maxTime      = 30 * time.Minute // of one transfer
)

// File is what is sent. *os.File is one.
type File interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// Server answers requests. Its fields are not changed while it serves.
type Server struct {
	// Open opens the file that a guest names. An error of kind fs.ErrNotExist or fs.ErrPermission tells the guest that
	// there is none.
	Open func(name string) (File, error)
	// Block is the largest block in bytes: what fits into a packet of the network.
	Block int
	// Log is told of what an administrator might want to know; nil is nobody.
	Log func(format string, args ...any)

	mu      sync.Mutex
	all     int
	clients map[netip.Addr]int
}

// Serve answers the requests that come to a socket until that fails. Each transfer has a socket of its own, with the address that
// conn is bound to.
func (s *Server) Serve(conn *net.UDPConn) error {
	buf := make([]byte, 2048)
	local := net.UDPAddrFromAddrPort(conn.LocalAddr().(*net.UDPAddr).AddrPort())
	local.Port = 0
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // such as an answer that nobody took
		}
		r, err := parse(buf[:n], max(s.Block, defaultBlock))
		var no refusal
		switch {
		case errors.As(err, &no):
			_, _ = conn.WriteToUDPAddrPort(failure(no), from) // who is gone needs none
			continue
		case err != nil:
			continue
		}
		if !s.enter(from.Addr()) {
			continue // the guest asks again
		}
		go func() {
			defer s.leave(from.Addr())
			s.transfer(r, local, net.UDPAddrFromAddrPort(from))
		}()
	}
}

func (s *Server) enter(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil {
		s.clients = map[netip.Addr]int{}
	}
	if s.all >= maxTransfers || s.clients[a] >= maxPerClient {
		return false
	}
	s.all++
	s.clients[a]++
	return true
}

func (s *Server) leave(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.clients[a]--; s.clients[a] == 0 {
		delete(s.clients, a)
	}
}

func (s *Server) log(format string, args ...any) {
	if s.Log != nil {
		s.Log(format, args...)
	}
}

// transfer sends one file.
func (s *Server) transfer(r request, local, to *net.UDPAddr) {
	conn, err := net.DialUDP("udp", local, to)
	if err != nil {
		s.log("no socket for a transfer to %s: %v", to, err)
		return
	}
	defer conn.Close()
	f, size, err := s.open(r.name)
	if err != nil {
		no := refusal{errUndefined, "the file cannot be read"}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			no = refusal{errNotFound, "file not found"}
		}
		s.log("%s asks for %q: %v", to.IP, r.name, err)
		_, _ = conn.Write(failure(no))
		return
	}
	defer f.Close()
	t := &transfer{conn: conn, timeout: r.timeout, end: time.Now().Add(maxTime), buf: make([]byte, 512)}
	if first := r.acknowledgement(size); first != nil && !t.send(first, 0) {
		return
	}
	packet := make([]byte, 4+r.block)
	for block, offset := uint16(1), int64(0); ; block++ { // beyond 65535 it goes on with 0, as clients expect
		n, err := f.ReadAt(packet[4:], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			s.log("%q: %v", r.name, err)
			_, _ = conn.Write(failure(refusal{errUndefined, "the file cannot be read"}))
			return
		}
		binary.BigEndian.PutUint16(packet, opData)
		binary.BigEndian.PutUint16(packet[2:], block)
		if !t.send(packet[:4+n], block) || n < r.block {
			return
		}
		offset += int64(n)
	}
}

// open opens a regular file.
func (s *Server) open(name string) (File, int64, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// transfer is the conversation about one file.
type transfer struct {
	conn    *net.UDPConn
	timeout time.Duration
	end     time.Time
	buf     []byte
}

// send sends a packet until it is acknowledged. An old acknowledgement causes nothing: to answer each would double every packet
// that follows (the sorcerer's apprentice, RFC 1123, 4.2.3.1).
func (t *transfer) send(packet []byte, block uint16) bool {
	for range retries {
		if _, err := t.conn.Write(packet); err != nil {
			return false
		}
		again := time.Now().Add(t.timeout)
		for {
			if time.Now().After(t.end) || t.conn.SetReadDeadline(again) != nil {
				return false
			}
			n, err := t.conn.Read(t.buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return false
			}
			got, ok, ended := acknowledged(t.buf[:n])
			if ended {
				return false
			}
			if ok && got == block {
				return true
			}
		}
	}
	return false
}
