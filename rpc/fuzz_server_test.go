package rpc_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// feed sends raw to a server and reads all answers; it fails when the server does not end the connection.
func feed(t *testing.T, b *testbed, raw []byte) {
	server, peer := net.Pipe()
	done := make(chan struct{})
	go func() {
		b.server.ServeConn(server, rpc.Policy{})
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
	f.Fuzz(func(t *testing.T, raw []byte) { feed(t, b, raw) })
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
		feed(t, b, raw)
	})
}
