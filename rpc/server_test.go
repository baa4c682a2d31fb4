package rpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
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
	conns  chan *rpc.Conn
}

func newTestbed(t testing.TB, opts rpc.Options, policy rpc.Policy) *testbed {
	t.Helper()
	b := &testbed{block: make(chan struct{}), inside: make(chan struct{}, 1000), conns: make(chan *rpc.Conn, 1000)}
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

func (b *testbed) handlers(reg *rpc.Registry) {
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcAuthList, func(context.Context, *rpc.Call, *struct{}) (*libvirt.AuthListRet, error) {
		return &libvirt.AuthListRet{Types: []libvirt.AuthType{0}}, nil
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcConnectOpen, func(_ context.Context, c *rpc.Call, a *libvirt.ConnectOpenArgs) (*struct{}, error) {
		c.Conn.Open(a.Flags&1 != 0)
		select {
		case b.conns <- c.Conn:
		default: // a fuzzer opens many
		}
		return nil, nil
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcConnectClose, func(_ context.Context, c *rpc.Call, _ *struct{}) (*struct{}, error) {
		c.Conn.CloseWhenIdle()
		return nil, nil
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcConnectSupportsFeature, func(_ context.Context, c *rpc.Call, a *libvirt.ConnectSupportsFeatureArgs) (*libvirt.ConnectSupportsFeatureRet, error) {
		c.Conn.EnableKeepalive()
		return &libvirt.ConnectSupportsFeatureRet{Supported: 1}, nil
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcConnectGetHostname, func(context.Context, *rpc.Call, *struct{}) (*libvirt.ConnectGetHostnameRet, error) {
		return &libvirt.ConnectGetHostnameRet{Hostname: "here"}, nil
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcDomainCreate, func(ctx context.Context, _ *rpc.Call, a *libvirt.DomainCreateArgs) (*struct{}, error) {
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
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcDomainGetState, func(_ context.Context, _ *rpc.Call, a *libvirt.DomainGetStateArgs) (*libvirt.DomainGetStateRet, error) {
		return &libvirt.DomainGetStateRet{State: 1, Reason: a.Dom.ID}, nil
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcDomainLookupByName, func(_ context.Context, _ *rpc.Call, a *libvirt.DomainLookupByNameArgs) (*libvirt.DomainLookupByNameRet, error) {
		return nil, virterr.New(virterr.NoDomain, "no domain with matching name '%s'", a.Name)
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcDomainDestroy, func(context.Context, *rpc.Call, *libvirt.DomainDestroyArgs) (*struct{}, error) {
		panic("a bug")
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcDomainOpenConsole, func(_ context.Context, c *rpc.Call, a *libvirt.DomainOpenConsoleArgs) (*struct{}, error) {
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
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcDomainOpenGraphics, func(_ context.Context, c *rpc.Call, _ *libvirt.DomainOpenGraphicsArgs) (*struct{}, error) {
		if len(c.Files) != 1 {
			return nil, virterr.New(virterr.InvalidArg, "%d files", len(c.Files))
		}
		_, err := c.Files[0].WriteString("got it")
		return nil, err
	})
	rpc.Handle(reg, rpc.ProgramRemote, rpc.ProcDomainOpenGraphicsFd, func(_ context.Context, c *rpc.Call, _ *libvirt.DomainOpenGraphicsFdArgs) (*struct{}, error) {
		f, err := os.Open("/dev/null")
		if err == nil {
			c.ReplyFiles(f)
		}
		return nil, err
	})
	reg.OnClose(func(*rpc.Conn) { b.closed.Add(1) })
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

func TestErrors(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	closed := b.dial(t)
	c := b.open(t)
	ro := b.dial(t)
	if err := ro.Open(context.Background(), "qemu:///system", true); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name          string
		c             *client.Client
		program, proc uint32
		args          any
		code          virterr.Code
		from          virterr.From
		text          string
	}{
		{"before open", closed, rpc.ProgramRemote, rpc.ProcConnectGetHostname, nil, virterr.InternalError, virterr.FromRPC, "internal error: connection not open"},
		{"unknown procedure", c, rpc.ProgramRemote, 9999, nil, virterr.RPC, virterr.FromRPC, "unknown procedure: 9999"},
		{"procedure 0", c, rpc.ProgramRemote, 0, nil, virterr.RPC, virterr.FromRPC, "unknown procedure: 0"},
		{"event as a call", c, rpc.ProgramRemote, 318, nil, virterr.RPC, virterr.FromRPC, "unknown procedure: 318"},
		{"unknown program", c, 0x06900690, 1, nil, virterr.RPC, virterr.FromRPC, "cannot find program 0x6900690 version 1; unknown procedure: 1"},
		{"no handler", c, rpc.ProgramRemote, rpc.ProcDomainScreenshot, &libvirt.DomainScreenshotArgs{}, virterr.NoSupport, virterr.FromQEMU,
			"this function is not supported by the connection driver: virDomainScreenshot"},
		{"no handler, QEMU program", c, rpc.ProgramQEMU, rpc.QEMUProcDomainAgentCommand, &libvirt.QEMUDomainAgentCommandArgs{}, virterr.NoSupport, virterr.FromQEMU,
			"this function is not supported by the connection driver: virDomainQemuAgentCommand"},
		{"wrong arguments", c, rpc.ProgramRemote, rpc.ProcDomainCreate, &libvirt.ConnectOpenArgs{}, virterr.RPC, virterr.FromRPC,
			"unable to decode message payload: xdr: unmarshal libvirt.DomainCreateArgs: Dom: UUID: data ends early"},
		{"arguments for a call without any", c, rpc.ProgramRemote, rpc.ProcConnectGetHostname, &libvirt.ConnectOpenArgs{}, virterr.RPC, virterr.FromRPC,
			"unable to decode message payload: CONNECT_GET_HOSTNAME takes no arguments, 8 bytes came"},
		{"a handler's error", c, rpc.ProgramRemote, rpc.ProcDomainLookupByName, &libvirt.DomainLookupByNameArgs{Name: "x"}, virterr.NoDomain, virterr.FromQEMU,
			"Domain not found: no domain with matching name 'x'"},
		{"a panic", c, rpc.ProgramRemote, rpc.ProcDomainDestroy, &libvirt.DomainDestroyArgs{}, virterr.InternalError, virterr.FromRPC,
			"internal error: virDomainDestroy failed in an unexpected way; the daemon's log has the details"},
		{"read-only", ro, rpc.ProgramRemote, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{}, virterr.OperationDenied, virterr.FromQEMU,
			"operation forbidden: read only access prevents virDomainCreate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Call(context.Background(), tt.program, tt.proc, tt.args, nil)
			var re *rpc.RemoteError
			if !errors.As(err, &re) {
				t.Fatalf("got %v, want a remote error", err)
			}
			if re.Code != tt.code || re.From != tt.from || re.Message != tt.text {
				t.Errorf("got code %d from %d %q\nwant code %d from %d %q", re.Code, re.From, re.Message, tt.code, tt.from, tt.text)
			}
		})
	}
	hostname(t, c) // the connection is none the worse
	hostname(t, ro)
}

func TestRefusedPeer(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{Admit: func(p rpc.Peer) error {
		if !p.Known || p.PID != int32(os.Getpid()) {
			t.Errorf("peer is %+v", p)
		}
		return virterr.New(virterr.AuthFailed, "user is not in group 'libvirt'")
	}})
	c := b.dial(t)
	err := c.Open(context.Background(), "qemu:///system", false)
	if err == nil || err.Error() != "authentication failed: user is not in group 'libvirt'" {
		t.Errorf("got %v", err)
	}
	<-c.Done()
}

// TestStuckCalls: five calls hang; a sixth waits, priority calls, questions and keepalive are answered all the same.
func TestStuckCalls(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	results := make(chan error, 6)
	for range 6 {
		go func() { results <- call(c, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{}, nil) }()
	}
	for range 5 {
		<-b.inside
	}
	for i := range int32(20) {
		var ret libvirt.DomainGetStateRet
		err := call(c, rpc.ProcDomainGetState, &libvirt.DomainGetStateArgs{Dom: libvirt.Domain{ID: i}}, &ret)
		if err != nil || ret.Reason != i {
			t.Fatalf("call %d: %+v, %v", i, ret, err)
		}
	}
	select {
	case <-b.inside:
		t.Error("a sixth call runs beside five")
	default:
	}
	hostname(t, b.open(t)) // another client is not affected
	close(b.block)
	for range 6 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

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

func TestKeepaliveWhileCallsHangAndTheQueueIsLong(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	conn := rawDial(t, b)
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{}))
	for i := range uint32(40) {
		conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainCreate, Serial: i}, &libvirt.DomainCreateArgs{}))
	}
	for range 5 {
		<-b.inside
	}
	conn.Write(message(rpc.Header{Program: rpc.ProgramKeepalive, Procedure: 1, Type: rpc.TypeMessage}, nil))
	r := rpc.NewFrameReader(conn, 0)
	for {
		h, _, _, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Program == rpc.ProgramKeepalive {
			if h.Procedure != 2 || h.Type != rpc.TypeMessage || h.Serial != 0 {
				t.Errorf("got %+v, want a pong", h)
			}
			break
		}
	}
	close(b.block)
}

func TestKeepaliveOfTheServer(t *testing.T) {
	b := newTestbed(t, rpc.Options{KeepaliveInterval: 20 * time.Millisecond, KeepaliveCount: 3}, rpc.Policy{})
	good := b.open(t)
	if err := call(good, rpc.ProcConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 10}, nil); err != nil {
		t.Fatal(err)
	}
	mute := rawDial(t, b)
	mute.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectSupportsFeature}, &libvirt.ConnectSupportsFeatureArgs{Feature: 10}))
	r := rpc.NewFrameReader(mute, 0)
	pings := 0
	for {
		h, _, _, err := r.Next()
		if err != nil {
			break // disconnected
		}
		if h.Program == rpc.ProgramKeepalive && h.Procedure == 1 {
			pings++
		}
	}
	if pings != 3 {
		t.Errorf("%d pings before the connection was closed, want 3", pings)
	}
	hostname(t, good)
}

func TestConsoleStream(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	open := func(flags uint32) *client.Stream {
		t.Helper()
		s, err := c.OpenStream(context.Background(), rpc.ProgramRemote, rpc.ProcDomainOpenConsole, &libvirt.DomainOpenConsoleArgs{Flags: flags}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("echo, then the client finishes", func(t *testing.T) {
		s := open(0)
		data := strings.Repeat("hello ", 100000) // several packets
		go s.Write([]byte(data))
		got := make([]byte, len(data))
		if _, err := io.ReadFull(s, got); err != nil || string(got) != data {
			t.Fatalf("echo differs: %v", err)
		}
		if err := s.Finish(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the client aborts", func(t *testing.T) {
		s := open(0)
		s.Write([]byte("x"))
		if err := s.Abort(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the server ends", func(t *testing.T) {
		s := open(1)
		got, err := io.ReadAll(s)
		if err != nil || string(got) != "bye" {
			t.Fatalf("%q, %v", got, err)
		}
		s.Write([]byte("too late")) // dropped
		if err := s.Finish(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the server fails", func(t *testing.T) {
		_, err := io.ReadAll(open(2))
		if err == nil || err.Error() != "operation failed: no console today" {
			t.Error(err)
		}
	})
	t.Run("two at once beside calls", func(t *testing.T) {
		one, two := open(0), open(0)
		one.Write([]byte("1"))
		two.Write([]byte("2"))
		hostname(t, c)
		buf := make([]byte, 1)
		for want, s := range map[string]*client.Stream{"1": one, "2": two} {
			if _, err := s.Read(buf); err != nil || string(buf) != want {
				t.Errorf("%q, %v", buf, err)
			}
			s.Abort()
		}
	})
	hostname(t, c)
}

// TestStalledClient: a client that opens a flood and never reads holds up nobody and can be shut down.
func TestStalledClient(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	conn := rawDial(t, b)
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{}))
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainOpenConsole, Serial: 1}, &libvirt.DomainOpenConsoleArgs{Flags: 3}))
	stalled := <-b.conns
	hostname(t, b.open(t))
	// Events for it are queued up to a bound, then it is disconnected. SendEvent never blocks.
	ev := &libvirt.DomainEventCallbackMetadataChangeMsg{Nsuri: libvirt.OptString{strings.Repeat("x", 1<<20)}}
	for i := 0; stalled.SendEvent(rpc.ProgramRemote, 379, ev) == nil; i++ {
		if i > 64 {
			t.Fatal("64 MiB of events were queued for a client that reads nothing")
		}
	}
	hostname(t, b.open(t))
}

func TestFileDescriptors(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	conn := rawDial(t, b)
	frames := rpc.NewFrameReader(conn, 0)
	defer frames.Close()
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{}))
	if _, _, _, err := frames.Next(); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// to the server
	h := rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: rpc.ProcDomainOpenGraphics, Type: rpc.TypeCallWithFDs, Serial: 5}
	msg := binary.BigEndian.AppendUint32(rpc.AppendMessage(nil, h), 1)
	msg, _ = rpc.Marshal(msg, &libvirt.DomainOpenGraphicsArgs{})
	rpc.FinishMessage(msg)
	conn.Write(msg)
	if _, _, err := conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if h, _, _, err := frames.Next(); err != nil || h.Status != rpc.StatusOK || h.Serial != 5 {
		t.Fatalf("%+v, %v", h, err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "got it" { // EOF: the server closed its copy
		t.Errorf("%q, %v", got, err)
	}
	// to the client
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainOpenGraphicsFd, Serial: 6}, &libvirt.DomainOpenGraphicsFdArgs{}))
	rh, body, files, err := frames.Next()
	if err != nil || rh.Type != rpc.TypeReplyWithFDs || len(body) != 0 || len(files) != 1 {
		t.Fatalf("%+v, %x, %v, %v", rh, body, files, err)
	}
	files[0].Close()
	// unasked: dropped, the connection goes on
	conn.WriteMsgUnix(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectGetHostname, Serial: 7}, nil), syscall.UnixRights(int(r.Fd())), nil)
	if h, _, _, err := frames.Next(); err != nil || h.Serial != 7 || h.Status != rpc.StatusOK {
		t.Fatalf("%+v, %v", h, err)
	}
	// announced but not sent: the connection ends
	h.Serial = 8
	msg = binary.BigEndian.AppendUint32(rpc.AppendMessage(nil, h), 33)
	rpc.FinishMessage(msg)
	conn.Write(msg)
	if _, _, _, err := frames.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end of the connection", err)
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	for name, raw := range map[string][]byte{
		"length 0":       make([]byte, 64),
		"length 27":      append([]byte{0, 0, 0, 27}, make([]byte, 60)...),
		"length 32M+5":   append([]byte{2, 0, 0, 5}, make([]byte, 60)...),
		"length 4G":      append([]byte{255, 255, 255, 255}, make([]byte, 60)...),
		"ends too early": {0, 0, 1, 0, 1, 2, 3, 4, 5},
	} {
		conn := rawDial(t, b)
		conn.Write(raw)
		conn.CloseWrite()
		if n, err := conn.Read(make([]byte, 1)); n != 0 || !(errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("%s: read %d, %v; want the end", name, n, err)
		}
	}
	hostname(t, b.open(t))
}

func TestLimits(t *testing.T) {
	b := newTestbed(t, rpc.Options{MaxClients: 2, OpenDeadline: 100 * time.Millisecond}, rpc.Policy{})
	one, two := b.open(t), b.dial(t)
	hostname(t, one)
	three := b.dial(t)
	<-three.Done()
	<-two.Done() // never opened
	for b.server.Clients() > 1 {
		time.Sleep(time.Millisecond)
	}
	hostname(t, one)
	hostname(t, b.open(t))
}

func TestCloseAnswersAndEnds(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	if err := call(c, rpc.ProcConnectClose, nil, nil); err != nil {
		t.Error(err)
	}
	<-c.Done()
	for b.closed.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
}

func TestShutdownLetsCallsFinish(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	result := make(chan error, 1)
	go func() { result <- call(c, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{}, nil) }()
	<-b.inside
	down := make(chan error, 1)
	go func() { down <- b.server.Shutdown(context.Background()) }()
	for {
		if probe, err := client.Dial(context.Background(), b.path); err != nil {
			break // no longer listening
		} else {
			probe.Close()
		}
	}
	close(b.block)
	if err := <-result; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	<-c.Done()
}

func TestShutdownGivesUpOnStuckCalls(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	go call(c, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{}, nil)
	<-b.inside
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := b.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	<-c.Done()
}

// dialer gives go-libvirt our socket.
type dialer string

func (d dialer) Dial() (net.Conn, error) { return net.Dial("unix", string(d)) }

func TestGoLibvirt(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	l := libvirt.NewWithDialer(dialer(b.path))
	if err := l.Connect(); err != nil {
		t.Fatal(err)
	}
	defer l.Disconnect()
	if name, err := l.ConnectGetHostname(); err != nil || name != "here" {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := l.DomainLookupByName("x"); !libvirt.IsNotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
	if _, _, err := l.DomainGetState(libvirt.Domain{}, 0); err != nil {
		t.Error(err)
	}
}
