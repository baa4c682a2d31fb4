package rpc_test

import (
	"encoding/binary"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// heap is what the process uses, in bytes, without garbage.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they have over one
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// settle waits until no more than most bytes are used beyond before, and returns how many are.
func settle(before, most int) (grown int) {
	for range 100 {
		if grown = heap() - before; grown <= most {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return grown
}

// opened is a connection that the test drives byte by byte and that is open already.
func opened(t *testing.T, b *testbed) *net.UnixConn {
	t.Helper()
	conn := rawDial(t, b)
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{}))
	<-b.conns
	return conn
}

// TestMemoryOfHostileClients measures what clients can make the server hold, beside what the calls that run hold. The bounds
// are what the limits in this package add up to.
func TestMemoryOfHostileClients(t *testing.T) {
	if testing.Short() {
		t.Skip("measures memory, of which the race detector takes more")
	}
	const clients = 4
	nonsense := func(proc uint32, size int) []byte {
		b := rpc.AppendMessage(nil, rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: proc})
		b = append(b, make([]byte, size-len(b))...)
		binary.BigEndian.PutUint32(b, uint32(len(b)))
		return b
	}
	long := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainLookupByName}, &libvirt.DomainLookupByNameArgs{Name: strings.Repeat("n", 1<<20)})
	define := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainDefineXML}, &libvirt.DomainDefineXMLArgs{XML: strings.Repeat("n", 1<<20)})
	create := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainCreate}, &libvirt.DomainCreateArgs{})
	for _, tt := range []struct {
		name string
		each int // bytes that one client may cost
		send func(net.Conn)
	}{
		{"32 MiB of nonsense, then silence", 1 << 20, func(c net.Conn) { c.Write(nonsense(9999, 32<<20)); awaitReply(c) }},
		{"32 MiB announced, little sent", 1 << 20, func(c net.Conn) { c.Write(nonsense(9999, 32<<20)[:1000]) }},
		{"calls without end, answers not read", outboxLimit + 3<<20, func(c net.Conn) { flood(c, create) }},
		// Five that run, with the name in their arguments, in the error and in its text; and what waits.
		{"long calls whose answers are not read", outboxLimit + 5*3<<20 + 5<<20, func(c net.Conn) { flood(c, long) }},
		{"long calls behind stuck ones", 5<<20 + 5<<20, func(c net.Conn) { flood(c, define) }}, // five that run, and what waits
		{"a console that is not read", 3 << 20, func(c net.Conn) {
			c.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainOpenConsole, Serial: 1}, &libvirt.DomainOpenConsoleArgs{Flags: 3}))
			time.Sleep(100 * time.Millisecond)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestbed(t, rpc.Options{}, rpc.Policy{})
			good := b.open(t)
			<-b.conns
			before := heap()
			var conns []net.Conn
			var sending sync.WaitGroup
			for range clients {
				conn := opened(t, b)
				sending.Go(func() { tt.send(conn) })
				conns = append(conns, conn)
			}
			sending.Wait()
			if grown := settle(before, clients*tt.each); grown > clients*tt.each {
				t.Errorf("%d KiB a client, %d are allowed", grown/clients>>10, tt.each>>10)
			}
			hostname(t, good) // the others are served
			for _, conn := range conns {
				conn.Close()
			}
			close(b.block)
			for end := time.Now().Add(10 * time.Second); b.server.Clients() > 1; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d clients are still there", b.server.Clients())
				}
			}
			if grown := settle(before, 2<<20); grown > 2<<20 {
				t.Errorf("%d KiB are held for clients that have left", grown>>10)
			}
		})
	}
}

// outboxLimit is what may wait to be sent to one client, in bytes.
const outboxLimit = 8 << 20

// flood writes a message until the server takes no more.
func flood(conn net.Conn, msg []byte) {
	for range 100_000 {
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(msg); err != nil {
			return
		}
	}
}

func awaitReply(conn net.Conn) {
	r := rpc.NewFrameReader(conn, 0)
	_, _, _, _ = r.Next()
}

// TestVanishInMidStream: a client that leaves while it sends or receives leaves nothing behind.
func TestVanishInMidStream(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	for _, flags := range []uint32{0, 3} { // an echo, a flood
		conn := opened(t, b)
		h := rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainOpenConsole, Serial: 9}
		conn.Write(message(h, &libvirt.DomainOpenConsoleArgs{Flags: flags}))
		h.Type, h.Status = rpc.TypeStream, rpc.StatusContinue
		packet := append(message(h, nil), make([]byte, 100_000)...)
		rpc.FinishMessage(packet)
		conn.Write(packet)
		conn.Write(packet[:5000]) // and no more
		conn.Close()
	}
	for end := time.Now().Add(10 * time.Second); b.server.Clients() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d clients are still there", b.server.Clients())
		}
	}
	hostname(t, b.open(t))
}
