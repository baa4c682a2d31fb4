package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
	"virtd/sasl"
	"virtd/virterr"
)

// passwords is a policy by which fred comes in by "secret", and mary's right password is not enough.
func passwords(t testing.TB) rpc.Policy {
	t.Helper()
	users := sasl.NewUsers(filepath.Join(t.TempDir(), "users"))
	for name, password := range map[string]string{"fred": "secret", "mary": "hidden"} {
		if _, err := users.Set(name, password); err != nil {
			t.Fatal(err)
		}
	}
	return rpc.Policy{SASL: sasl.NewAuthenticator(users, []string{"fred"})}
}

// authenticate connects and proves to be somebody.
func authenticate(t *testing.T, b *testbed, name, password string) (net.Conn, error) {
	t.Helper()
	conn := rawDial(t, b)
	return conn, client.Authenticate(conn, func() (string, string, error) { return name, password, nil })
}

func TestAuthentication(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, passwords(t))
	early := b.dial(t)
	if err := early.Open(context.Background(), "qemu:///system", false); !errors.Is(err, client.ErrCredentials) {
		t.Errorf("open without a password: %v", err)
	}
	conn, err := authenticate(t, b, "fred", "secret")
	if err != nil {
		t.Fatal(err)
	}
	c := client.New(conn)
	defer c.Close()
	if err := c.Open(context.Background(), "qemu:///system", false); err != nil {
		t.Fatal(err)
	}
	hostname(t, c)
	served := <-b.conns
	if served.User() != "fred" {
		t.Errorf("the connection is said to be %q's", served.User())
	}
	// what is longer than a stranger may send
	long := &libvirt.DomainLookupByNameArgs{Name: strings.Repeat("n", 1<<20)}
	if err := call(c, rpc.ProcDomainLookupByName, long, nil); err == nil || !strings.HasPrefix(err.Error(), "Domain not found") {
		t.Errorf("a long call: %.80v", err)
	}
}

// TestAuthenticationFails: whatever is wrong, a client is told the same words at the same pace, and let go.
func TestAuthenticationFails(t *testing.T) {
	const delay = 50 * time.Millisecond
	b := newTestbed(t, rpc.Options{AuthFailureDelay: delay}, passwords(t))
	for _, tt := range []struct{ what, name, password string }{
		{"wrong password", "fred", "hidden"}, {"unknown user", "nobody", "secret"}, {"not in the list, right password", "mary", "hidden"},
		{"not in the list, wrong password", "mary", "secret"},
	} {
		start := time.Now()
		conn, err := authenticate(t, b, tt.name, tt.password)
		var re *rpc.RemoteError
		if !errors.As(err, &re) || re.Code != virterr.AuthFailed || re.From != virterr.FromRPC || re.Message != "authentication failed: authentication failed" {
			t.Errorf("%s: %v", tt.what, err)
		}
		if took := time.Since(start); took < delay {
			t.Errorf("%s: answered after %v", tt.what, took)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: the connection goes on", tt.what)
		}
	}
	for _, tt := range []struct {
		what  string
		calls []any
	}{
		{"other mechanism", []any{&libvirt.AuthSaslStartArgs{Mech: "PLAIN", Data: rpc.Chars([]byte("\x00fred\x00secret"))}}},
		{"step before start", []any{&libvirt.AuthSaslStepArgs{}}},
		{"no words", []any{&libvirt.AuthSaslStartArgs{Mech: sasl.Mechanism, Nil: 1}}},
		{"started twice", []any{&libvirt.AuthSaslStartArgs{Mech: sasl.Mechanism, Data: rpc.Chars([]byte("n,,n=fred,r=x"))},
			&libvirt.AuthSaslStartArgs{Mech: sasl.Mechanism, Data: rpc.Chars([]byte("n,,n=fred,r=x"))}}},
	} {
		c := b.dial(t)
		var err error
		for _, args := range tt.calls {
			proc := uint32(rpc.ProcAuthSaslStart)
			if _, ok := args.(*libvirt.AuthSaslStepArgs); ok {
				proc = rpc.ProcAuthSaslStep
			}
			err = call(c, proc, args, nil)
		}
		if err == nil || err.Error() != "authentication failed: authentication failed" {
			t.Errorf("%s: %v", tt.what, err)
		}
		<-c.Done()
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("%d calls were carried out", n)
	}
}

// TestNothingBeforeAuthentication tries every procedure of every program, as a call and with descriptors.
func TestNothingBeforeAuthentication(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, passwords(t))
	conn := rawDial(t, b)
	r := rpc.NewFrameReader(conn, 0)
	defer r.Close()
	tried := 0
	for _, program := range []uint32{rpc.ProgramRemote, rpc.ProgramQEMU, rpc.ProgramPrivate} {
		for n := uint32(1); n < 600; n++ {
			p := rpc.LookupProcedure(program, n)
			if p == nil || p.Message || program == rpc.ProgramRemote && n >= rpc.ProcAuthList && n <= rpc.ProcAuthPolkit {
				continue
			}
			tried++
			conn.Write(message(rpc.Header{Program: program, Procedure: n, Serial: n}, nil))
			h, body, _, err := r.Next()
			if err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
			var re *rpc.RemoteError
			if h.Status != rpc.StatusError || !errors.As(rpc.DecodeError(body), &re) || re.Code != virterr.RPC || re.Message != "authentication required" {
				t.Errorf("%s: %+v %v", p.Name, h, re)
			}
		}
	}
	if n := b.calls.Load(); n != 0 || tried < 400 {
		t.Errorf("%d calls of %d were carried out", n, tried)
	}
	// the connection is not lost: the client may still authenticate
	c := client.New(conn)
	var offer libvirt.AuthSaslInitRet
	if err := call(c, rpc.ProcAuthSaslInit, nil, &offer); err != nil || offer.Mechlist != "SCRAM-SHA-256" {
		t.Errorf("afterwards: %+v, %v", offer, err)
	}
	c.Close()
}

// TestStrangers: those who do not authenticate are few, hold nobody up, send little and are let go.
func TestStrangers(t *testing.T) {
	b := newTestbed(t, rpc.Options{MaxAnonymous: 3, MaxClients: 10}, passwords(t))
	var idle []*client.Client
	for range 9 { // each beyond the third ends the oldest
		idle = append(idle, b.dial(t))
	}
	for i, c := range idle[:6] {
		select {
		case <-c.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("stranger %d is still connected", i)
		}
	}
	conn, err := authenticate(t, b, "fred", "secret")
	if err != nil {
		t.Fatalf("strangers keep users out: %v", err)
	}
	user := client.New(conn)
	defer user.Close()
	if err := user.Open(context.Background(), "qemu:///system", false); err != nil {
		t.Fatal(err)
	}
	long := rawDial(t, b)
	long.Write([]byte{0, 1, 0, 1}) // 64 KiB and one byte
	long.Write(make([]byte, 100))
	if n, err := long.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a long message of a stranger: read %d bytes, %v", n, err)
	}
	hostname(t, user)
}

// TestStrangersTime: who does not authenticate in time is let go, whatever else it says meanwhile.
func TestStrangersTime(t *testing.T) {
	b := newTestbed(t, rpc.Options{OpenDeadline: 200 * time.Millisecond}, passwords(t))
	silent, talks := b.dial(t), b.dial(t)
	for {
		if err := call(talks, rpc.ProcAuthList, nil, nil); err != nil {
			break
		}
	}
	<-talks.Done()
	<-silent.Done()
}

// TestAuthListAfterwards: a library that asks again, on a connection that has proved who it is, is told to go on.
func TestAuthListAfterwards(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, passwords(t))
	conn, err := authenticate(t, b, "fred", "secret")
	if err != nil {
		t.Fatal(err)
	}
	l := libvirt.NewWithDialer(connected{conn})
	if err := l.Connect(); err != nil {
		t.Fatal(err)
	}
	defer l.Disconnect()
	if name, err := l.ConnectGetHostname(); err != nil || name != "here" {
		t.Errorf("%q, %v", name, err)
	}
}

// connected gives go-libvirt a connection that exists.
type connected struct{ net.Conn }

func (c connected) Dial() (net.Conn, error) { return c.Conn, nil }

// TestPeerOverTCP: logs tell where a client is, and nobody takes it for a local user.
func TestPeerOverTCP(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admitted := make(chan rpc.Peer, 1)
	go b.server.Serve(l, rpc.Policy{Plain: true, Admit: func(p rpc.Peer) error { admitted <- p; return nil }})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := client.New(conn)
	defer c.Close()
	if err := c.Open(context.Background(), "qemu:///system", false); err != nil {
		t.Fatal(err)
	}
	if p := <-admitted; p.Known || p.Addr != conn.LocalAddr().String() || fmt.Sprint(p.LogValue()) != p.Addr {
		t.Errorf("the peer is %+v, printed as %v", p, p.LogValue())
	}
	if served := <-b.conns; served.Secure() {
		t.Error("a connection over TCP is called secure")
	}
}
