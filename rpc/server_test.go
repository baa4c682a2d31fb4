package rpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
	"virtd/virterr"
)

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

// TestShutdownAnswersStuckCalls: a call that does not finish in time has its context ended, and its answer still arrives.
func TestShutdownAnswersStuckCalls(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	result := make(chan error, 1)
	go func() { result <- call(c, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{}, nil) }()
	<-b.inside
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := b.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := <-result; err != nil {
		t.Errorf("the stuck call: %v", err)
	}
}

// TestShutdownEndsStreams: who reads or writes a stream when the server stops is told so.
func TestShutdownEndsStreams(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	s, err := c.OpenStream(context.Background(), rpc.ProgramRemote, rpc.ProcDomainOpenConsole, &libvirt.DomainOpenConsoleArgs{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || err.Error() != "operation aborted: the daemon is stopping" {
		t.Errorf("the stream ended with %v", err)
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
