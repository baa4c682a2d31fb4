package rpc_test

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// feed sends raw to a server and reads all answers; it fails when the server does not end the connection.
func feed(t *testing.T, b *testbed, policy rpc.Policy, raw []byte) {
	server, peer := net.Pipe()
	done := make(chan struct{})
	go func() {
		b.server.ServeConn(server, policy)
		close(done)
	}()
	go io.Copy(io.Discard, peer)
	peer.SetWriteDeadline(time.Now().Add(20 * time.Second))
	peer.Write(raw)
	peer.Close()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the server did not end the connection")
	}
}

// FuzzServerBytes feeds arbitrary bytes.
func FuzzServerBytes(f *testing.F) {
	b := newTestbed(f, rpc.Options{}, rpc.Policy{})
	close(b.block)
	open := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{})
	f.Add(open)
	f.Add(append(bytes.Clone(open), message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainOpenConsole, Serial: 1}, &libvirt.DomainOpenConsoleArgs{})...))
	f.Add([]byte{0, 0, 0, 28})
	f.Fuzz(func(t *testing.T, raw []byte) { feed(t, b, rpc.Policy{}, raw) })
}

// FuzzServerFrames feeds two valid frames with arbitrary header fields and content, before or after OPEN.
func FuzzServerFrames(f *testing.F) {
	b := newTestbed(f, rpc.Options{}, rpc.Policy{})
	close(b.block)
	f.Add(true, uint32(rpc.ProgramRemote), uint32(201), uint32(0), uint32(1), uint32(0), []byte(nil), uint32(201), uint32(3), uint32(1), uint32(2), []byte("data"))
	f.Add(false, uint32(rpc.ProgramRemote), uint32(66), uint32(0), uint32(1), uint32(0), []byte(nil), uint32(1), uint32(0), uint32(2), uint32(0), []byte(nil))
	f.Add(true, uint32(rpc.ProgramKeepalive), uint32(1), uint32(2), uint32(0), uint32(0), []byte(nil), uint32(23), uint32(0), uint32(1), uint32(0), []byte{0, 0, 0, 1, 'x', 0, 0, 0})
	f.Add(true, uint32(rpc.ProgramQEMU), uint32(1), uint32(4), uint32(0), uint32(0), []byte{0, 0, 0, 1}, uint32(201), uint32(6), uint32(1), uint32(2), []byte(nil))
	f.Fuzz(func(t *testing.T, opened bool, program, proc, typ, serial, status uint32, body []byte, proc2, typ2, serial2, status2 uint32, body2 []byte) {
		if proc == rpc.ProcDomainOpenConsole && len(body) >= 4 {
			body[len(body)-1] &= 1 // not the endless flood
		}
		var raw []byte
		if opened {
			raw = message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{})
		}
		for _, m := range []struct {
			h    rpc.Header
			body []byte
		}{
			{rpc.Header{Program: program, Version: 1, Procedure: proc, Type: rpc.MessageType(typ), Serial: serial, Status: rpc.Status(status)}, body},
			{rpc.Header{Program: program, Version: 1, Procedure: proc2, Type: rpc.MessageType(typ2), Serial: serial2, Status: rpc.Status(status2)}, body2},
		} {
			one := append(rpc.AppendMessage(nil, m.h), m.body...)
			if rpc.FinishMessage(one) == nil {
				raw = append(raw, one...)
			}
		}
		feed(t, b, rpc.Policy{}, raw)
	})
}

// FuzzServerUnproven feeds valid frames with arbitrary content, and what is left over as it is, to a server that asks who the
// client is: no handler is reached.
func FuzzServerUnproven(f *testing.F) {
	policy := passwords(f)
	b := newTestbed(f, rpc.Options{AuthFailureDelay: -1}, policy)
	call := func(proc uint32, args any) []byte {
		return message(rpc.Header{Program: rpc.ProgramRemote, Procedure: proc, Serial: 1}, args)
	}
	start := call(rpc.ProcAuthSaslStart, &libvirt.AuthSaslStartArgs{Mech: "SCRAM-SHA-256", Data: rpc.Chars([]byte("n,,n=fred,r=x"))})
	step := call(rpc.ProcAuthSaslStep, &libvirt.AuthSaslStepArgs{Data: rpc.Chars([]byte("c=biws,r=x,p=AAAA"))})
	open := call(rpc.ProcConnectOpen, &libvirt.ConnectOpenArgs{})
	for _, seed := range [][]byte{open, start, step, slices.Concat(call(rpc.ProcAuthSaslInit, nil), start, step, open), slices.Concat(start, start, step, step)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		feed(t, b, policy, raw)
		feed(t, b, policy, append(bytes.Clone(raw), open...))
		if n := b.calls.Load(); n != 0 {
			t.Fatalf("%d calls were carried out for a client that proved nothing", n)
		}
	})
}
