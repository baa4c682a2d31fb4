package rpc_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"go.uber.org/goleak"

	"virtd/rpc"
	"virtd/rpc/client"
	"virtd/virterr"
)

// testbed is a server with handlers that a test can hold up.
type testbed struct {
	server *rpc.Server
	path   string
	block  chan struct{} // DOMAIN_CREATE waits for it
	inside chan struct{} // gets a value when DOMAIN_CREATE begins
	closed atomic.Int32
	calls  atomic.Int32 // that reached a handler, other than those of authentication
	conns  chan *rpc.Conn

	// DOMAIN_DEFINE_XML_FLAGS is a brief call.
	defines  atomic.Int32  // that reached their handler
	inReader atomic.Int32  // how many of them the connection's reader answered
	hang     atomic.Bool   // the next waits for release
	hanging  chan struct{} // and tells so
	release  chan struct{}
}

func newTestbed(t testing.TB, opts rpc.Options, policy rpc.Policy) *testbed {
	t.Helper()
	b := &testbed{block: make(chan struct{}), inside: make(chan struct{}, 1000), conns: make(chan *rpc.Conn, 1000),
		hanging: make(chan struct{}), release: make(chan struct{})}
	reg := rpc.NewRegistry()
	b.handlers(reg)
	opts.Logger = slog.New(slog.DiscardHandler)
	b.server = rpc.NewServer(reg, opts)
	b.path = filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.server.Serve(l, policy) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return b
}

// handle registers fn and counts its calls.
func handle[A, R any](b *testbed, reg *rpc.Registry, number uint32, fn func(context.Context, *rpc.Call, *A) (*R, error)) {
	rpc.Handle(reg, rpc.ProgramRemote, number, func(ctx context.Context, c *rpc.Call, a *A) (*R, error) {
		b.calls.Add(1)
		return fn(ctx, c, a)
	})
}

func (b *testbed) handlers(reg *rpc.Registry) {
	rpc.HandleAuth(reg)
	handle(b, reg, rpc.ProcConnectOpen, func(_ context.Context, c *rpc.Call, a *libvirt.ConnectOpenArgs) (*struct{}, error) {
		c.Conn.Open(a.Flags&1 != 0)
		select {
		case b.conns <- c.Conn:
		default: // a fuzzer opens many
		}
		return nil, nil
	})
	handle(b, reg, rpc.ProcConnectClose, func(_ context.Context, c *rpc.Call, _ *struct{}) (*struct{}, error) {
		c.Conn.CloseWhenIdle()
		return nil, nil
	})
	handle(b, reg, rpc.ProcConnectSupportsFeature, func(_ context.Context, c *rpc.Call, a *libvirt.ConnectSupportsFeatureArgs) (*libvirt.ConnectSupportsFeatureRet, error) {
		c.Conn.EnableKeepalive()
		return &libvirt.ConnectSupportsFeatureRet{Supported: 1}, nil
	})
	handle(b, reg, rpc.ProcConnectGetHostname, func(context.Context, *rpc.Call, *struct{}) (*libvirt.ConnectGetHostnameRet, error) {
		return &libvirt.ConnectGetHostnameRet{Hostname: "here"}, nil
	})
	handle(b, reg, rpc.ProcDomainCreate, func(ctx context.Context, _ *rpc.Call, a *libvirt.DomainCreateArgs) (*struct{}, error) {
		select {
		case b.inside <- struct{}{}:
		default:
		}
		select {
		case <-b.block:
		case <-ctx.Done():
		}
		return nil, nil
	})
	handle(b, reg, rpc.ProcDomainDefineXML, func(ctx context.Context, _ *rpc.Call, _ *libvirt.DomainDefineXMLArgs) (*libvirt.DomainDefineXMLRet, error) {
		select {
		case <-b.block:
		case <-ctx.Done():
		}
		return &libvirt.DomainDefineXMLRet{}, nil
	})
	rpc.HandleBrief(reg, rpc.ProgramRemote, rpc.ProcDomainDefineXMLFlags, b.define)
	rpc.HandleQuick(reg, rpc.ProgramRemote, rpc.ProcDomainGetState, func(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetStateArgs) (*libvirt.DomainGetStateRet, error) {
		b.calls.Add(1)
		return &libvirt.DomainGetStateRet{State: 1, Reason: a.Dom.ID}, nil
	})
	handle(b, reg, rpc.ProcDomainLookupByName, func(_ context.Context, _ *rpc.Call, a *libvirt.DomainLookupByNameArgs) (*libvirt.DomainLookupByNameRet, error) {
		return nil, virterr.New(virterr.NoDomain, "no domain with matching name '%s'", a.Name)
	})
	handle(b, reg, rpc.ProcDomainDestroy, func(context.Context, *rpc.Call, *libvirt.DomainDestroyArgs) (*struct{}, error) {
		panic("a bug")
	})
	handle(b, reg, rpc.ProcDomainOpenConsole, func(_ context.Context, c *rpc.Call, a *libvirt.DomainOpenConsoleArgs) (*struct{}, error) {
		if a.Flags == sparseEcho {
			c.StartSparseStream(rpc.StreamBoth, echoPieces)
			return nil, nil
		}
		c.StartStream(rpc.StreamBoth, func(s *rpc.Stream) error {
			switch a.Flags {
			case 0: // echo until the client ends
				_, err := io.Copy(s, s)
				return err
			case 1: // end at once
				_, err := s.Write([]byte("bye"))
				return err
			case 2:
				return virterr.New(virterr.OperationFailed, "no console today")
			default: // flood
				for {
					if _, err := s.Write(make([]byte, 1<<20)); err != nil {
						return err
					}
				}
			}
		})
		return nil, nil
	})
	handle(b, reg, rpc.ProcDomainOpenGraphics, func(_ context.Context, c *rpc.Call, _ *libvirt.DomainOpenGraphicsArgs) (*struct{}, error) {
		if len(c.Files) != 1 {
			return nil, virterr.New(virterr.InvalidArg, "%d files", len(c.Files))
		}
		_, err := c.Files[0].WriteString("got it")
		return nil, err
	})
	handle(b, reg, rpc.ProcDomainOpenGraphicsFd, func(_ context.Context, c *rpc.Call, _ *libvirt.DomainOpenGraphicsFdArgs) (*struct{}, error) {
		f, err := os.Open("/dev/null")
		if err == nil {
			c.ReplyFiles(f)
		}
		return nil, err
	})
	reg.OnClose(func(*rpc.Conn) { b.closed.Add(1) })
}

func (b *testbed) define(ctx context.Context, _ *rpc.Call, _ *libvirt.DomainDefineXMLFlagsArgs) (*libvirt.DomainDefineXMLFlagsRet, error) {
	b.calls.Add(1)
	b.defines.Add(1)
	if bytes.Contains(debug.Stack(), []byte("readLoop")) {
		b.inReader.Add(1)
	}
	if b.hang.CompareAndSwap(true, false) {
		b.hanging <- struct{}{}
		select {
		case <-b.release:
		case <-ctx.Done():
		}
	}
	return &libvirt.DomainDefineXMLFlagsRet{}, nil
}

func (b *testbed) dial(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.Dial(context.Background(), b.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (b *testbed) open(t testing.TB) *client.Client {
	t.Helper()
	c := b.dial(t)
	if err := c.Open(context.Background(), "qemu:///system", false); err != nil {
		t.Fatal(err)
	}
	return c
}

func call(c *client.Client, proc uint32, args, ret any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c.Call(ctx, rpc.ProgramRemote, proc, args, ret)
}

func hostname(t *testing.T, c *client.Client) {
	t.Helper()
	var ret libvirt.ConnectGetHostnameRet
	if err := call(c, rpc.ProcConnectGetHostname, nil, &ret); err != nil || ret.Hostname != "here" {
		t.Fatalf("hostname: %q, %v", ret.Hostname, err)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rawDial opens a connection that the test drives byte by byte.
func rawDial(t testing.TB, b *testbed) *net.UnixConn {
	t.Helper()
	conn, err := net.Dial("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.UnixConn)
}

func message(h rpc.Header, args any) []byte {
	if h.Version == 0 {
		h.Version = 1
	}
	b := rpc.AppendMessage(nil, h)
	if args != nil {
		var err error
		if b, err = rpc.Marshal(b, args); err != nil {
			panic(err)
		}
	}
	if err := rpc.FinishMessage(b); err != nil {
		panic(err)
	}
	return b
}
