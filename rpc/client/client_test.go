package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"go.uber.org/goleak"

	"virtd/rpc"
	"virtd/rpc/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a daemon that the test plays.
type peer struct {
	t      *testing.T
	conn   net.Conn
	frames *rpc.FrameReader
}

func newPeer(t *testing.T) (*client.Client, *peer) {
	t.Helper()
	near, far := net.Pipe()
	c := client.New(near)
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, &peer{t, far, rpc.NewFrameReader(far, 0)}
}

func (p *peer) next() rpc.Header {
	p.t.Helper()
	h, _, _, err := p.frames.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	return h
}

func (p *peer) send(h rpc.Header, args any) {
	p.t.Helper()
	b := rpc.AppendMessage(nil, h)
	if args != nil {
		var err error
		if b, err = rpc.Marshal(b, args); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := rpc.FinishMessage(b); err != nil {
		p.t.Fatal(err)
	}
	p.conn.Write(b)
}

func hostname(c *client.Client, ctx context.Context) (string, error) {
	var ret libvirt.ConnectGetHostnameRet
	err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectGetHostname, nil, &ret)
	return ret.Hostname, err
}

func TestRepliesOutOfOrder(t *testing.T) {
	c, p := newPeer(t)
	type result struct {
		name string
		err  error
	}
	results := make(chan result, 2)
	var calls []rpc.Header
	for range 2 {
		go func() {
			name, err := hostname(c, context.Background())
			results <- result{name, err}
		}()
		calls = append(calls, p.next())
	}
	for i, name := range []string{"second", "first"} {
		h := calls[1-i]
		h.Type = rpc.TypeReply
		p.send(h, &libvirt.ConnectGetHostnameRet{Hostname: name})
		if r := <-results; r.err != nil || r.name != name {
			t.Errorf("%+v, want %s", r, name)
		}
	}
}

func TestPingIsAnswered(t *testing.T) {
	_, p := newPeer(t)
	p.send(rpc.Header{Program: rpc.ProgramKeepalive, Version: 1, Procedure: 1, Type: rpc.TypeMessage}, nil)
	if h := p.next(); h.Program != rpc.ProgramKeepalive || h.Procedure != 2 {
		t.Errorf("%+v", h)
	}
}

func TestCallsEndWithTheConnection(t *testing.T) {
	c, p := newPeer(t)
	done := make(chan error, 1)
	go func() {
		_, err := hostname(c, context.Background())
		done <- err
	}()
	p.next()
	p.conn.Close()
	if err := <-done; !errors.Is(err, client.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := hostname(c, context.Background()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("a later call: %v", err)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	c, p := newPeer(t)
	go p.frames.Next()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := hostname(c, ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestStreamEndsWithTheConnection(t *testing.T) {
	c, p := newPeer(t)
	opened := make(chan *client.Stream, 1)
	go func() {
		s, err := c.OpenStream(context.Background(), rpc.ProgramRemote, rpc.ProcDomainOpenConsole, &libvirt.DomainOpenConsoleArgs{}, nil)
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	h := p.next()
	h.Type = rpc.TypeReply
	p.send(h, nil)
	s := <-opened
	h.Type, h.Status = rpc.TypeStream, rpc.StatusContinue
	p.send(h, &libvirt.AuthListRet{}) // four bytes of data
	buf := make([]byte, 10)
	if n, err := s.Read(buf); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	p.conn.Close()
	if _, err := s.Read(buf); !errors.Is(err, client.ErrClosed) || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}
