package rpc_test

import (
	"encoding/binary"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// descriptors counts those of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// withFDs is a call that announces n descriptors.
func withFDs(proc, serial, n uint32, args any) []byte {
	b := rpc.AppendMessage(nil, rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: proc, Type: rpc.TypeCallWithFDs, Serial: serial})
	b = binary.BigEndian.AppendUint32(b, n)
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

// sendFDs sends n descriptors, each with a byte, as libvirt does.
func sendFDs(conn *net.UnixConn, n int) {
	for range n {
		conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(0), nil)
	}
}

// TestDescriptorsAreClosed: whatever a client does with descriptors, and however it goes, the server keeps none.
func TestDescriptorsAreClosed(t *testing.T) {
	create := func(serial uint32) []byte {
		return withFDs(rpc.ProcDomainCreate, serial, 2, &libvirt.DomainCreateArgs{})
	}
	open := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{})
	look := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{Flags: libvirt.ConnectRo})
	refused := rpc.Policy{Admit: func(rpc.Peer) error { return os.ErrPermission }}
	for name, tt := range map[string]struct {
		policy rpc.Policy
		first  []byte
		send   func(*net.UnixConn)
	}{
		"taken": {first: open, send: func(c *net.UnixConn) {
			c.Write(withFDs(rpc.ProcDomainOpenGraphics, 1, 1, &libvirt.DomainOpenGraphicsArgs{}))
			sendFDs(c, 1)
		}},
		"before OPEN":       {send: func(c *net.UnixConn) { c.Write(create(1)); sendFDs(c, 2) }},
		"unproven":          {policy: passwords(t), send: func(c *net.UnixConn) { c.Write(create(1)); sendFDs(c, 2) }},
		"refused":           {policy: refused, send: func(c *net.UnixConn) { c.Write(create(1)); sendFDs(c, 2) }},
		"read-only":         {first: look, send: func(c *net.UnixConn) { c.Write(create(1)); sendFDs(c, 2) }},
		"no such procedure": {first: open, send: func(c *net.UnixConn) { c.Write(withFDs(9999, 1, 2, nil)); sendFDs(c, 2) }},
		"no handler": {first: open, send: func(c *net.UnixConn) {
			c.Write(withFDs(rpc.ProcDomainCreateWithFiles, 1, 32, &libvirt.DomainCreateWithFilesArgs{}))
			sendFDs(c, 32)
		}},
		"bad arguments": {first: open, send: func(c *net.UnixConn) { c.Write(withFDs(rpc.ProcDomainCreate, 1, 2, nil)); sendFDs(c, 2) }},
		"a panic": {first: open, send: func(c *net.UnixConn) {
			c.Write(withFDs(rpc.ProcDomainDestroy, 1, 2, &libvirt.DomainDestroyArgs{}))
			sendFDs(c, 2)
		}},
		"more announced": {first: open, send: func(c *net.UnixConn) {
			c.Write(withFDs(rpc.ProcDomainCreate, 1, 33, &libvirt.DomainCreateArgs{}))
			sendFDs(c, 32)
		}},
		"fewer sent":     {first: open, send: func(c *net.UnixConn) { c.Write(create(1)); sendFDs(c, 1) }},
		"more sent":      {first: open, send: func(c *net.UnixConn) { c.WriteMsgUnix(create(1), syscall.UnixRights(0, 0, 0), nil); sendFDs(c, 2) }},
		"heaps sent":     {first: open, send: func(c *net.UnixConn) { c.WriteMsgUnix(create(1), syscall.UnixRights(make([]int, 200)...), nil) }},
		"none announced": {first: open, send: func(c *net.UnixConn) { c.WriteMsgUnix(create(1)[:20], syscall.UnixRights(0, 0), nil) }},
		"no length": {first: open, send: func(c *net.UnixConn) {
			c.WriteMsgUnix(withFDs(rpc.ProcDomainCreate, 1, 0, nil)[:28], syscall.UnixRights(0), nil)
		}},
		"a stream packet": {first: open, send: func(c *net.UnixConn) {
			c.WriteMsgUnix(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainOpenConsole, Type: rpc.TypeStream}, nil), syscall.UnixRights(0), nil)
		}},
		"a reply": {first: open, send: func(c *net.UnixConn) {
			b := withFDs(rpc.ProcDomainCreate, 1, 1, nil)
			b[19] = byte(rpc.TypeReplyWithFDs)
			c.Write(b)
			sendFDs(c, 1)
		}},
		"waiting behind stuck calls": {first: open, send: func(c *net.UnixConn) {
			for i := range uint32(20) {
				c.Write(create(i))
				sendFDs(c, 2)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestbed(t, rpc.Options{AuthFailureDelay: -1}, tt.policy)
			before := descriptors(t)
			conn := rawDial(t, b)
			if tt.first != nil {
				conn.Write(tt.first)
				r := rpc.NewFrameReader(conn, 0)
				if _, _, _, err := r.Next(); err != nil {
					t.Fatal(err)
				}
			}
			tt.send(conn)
			conn.Close() // vanishes, whatever the server is doing
			close(b.block)
			for end := time.Now().Add(10 * time.Second); b.server.Clients() > 0 || descriptors(t) > before; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d clients, %d descriptors; %d before", b.server.Clients(), descriptors(t), before)
				}
			}
		})
	}
}

// FuzzDescriptors sends arbitrary bytes with descriptors in the middle.
func FuzzDescriptors(f *testing.F) {
	b := newTestbed(f, rpc.Options{}, rpc.Policy{})
	close(b.block)
	open := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{})
	f.Add(append(open, withFDs(rpc.ProcDomainCreate, 1, 2, &libvirt.DomainCreateArgs{})...), uint16(60), uint8(2), []byte{0})
	f.Add(withFDs(rpc.ProcDomainOpenGraphics, 1, 1, nil), uint16(28), uint8(40), []byte{0, 0})
	f.Fuzz(func(t *testing.T, raw []byte, at uint16, n uint8, more []byte) {
		before := descriptors(t)
		conn := rawDial(t, b)
		cut := min(int(at), len(raw))
		conn.Write(raw[:cut])
		conn.WriteMsgUnix(append([]byte{0}, more...), syscall.UnixRights(make([]int, n)...), nil)
		conn.Write(raw[cut:])
		conn.Close()
		for end := time.Now().Add(20 * time.Second); b.server.Clients() > 0 || descriptors(t) > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d descriptors, %d before", descriptors(t), before)
			}
		}
	})
}
