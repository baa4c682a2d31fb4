package daemon_test

import (
	"context"
	"io"
	"net"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// TestStateAllocations counts what the daemon allocates for the question that clients ask most, from the read of the
// call to the write of the reply.
func TestStateAllocations(t *testing.T) {
	const most = 5 // the call, its arguments, their decoder, the name in them, the result
	b := newTestbed(t)
	dom, err := b.mgr.Define(context.Background(), "<domain type='kvm'><name>quiet</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>", 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := b.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange(t, conn, message(t, rpc.ProcConnectOpen, &libvirt.ConnectOpenArgs{}), make([]byte, 28))
	ask := message(t, rpc.ProcDomainGetState, &libvirt.DomainGetStateArgs{Dom: libvirt.Domain{Name: dom.Name(), UUID: libvirt.UUID(dom.UUID())}})
	reply := make([]byte, 28+8)
	if n := testing.AllocsPerRun(200, func() { exchange(t, conn, ask, reply) }); n > most {
		t.Errorf("DOMAIN_GET_STATE takes %v allocations, %d are known", n, most)
	}
}

// message encodes a call.
func message(t *testing.T, procedure uint32, args any) []byte {
	t.Helper()
	b, err := rpc.Marshal(rpc.AppendMessage(nil, rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: procedure}), args)
	if err == nil {
		err = rpc.FinishMessage(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exchange sends a call and reads a reply that has the length of the buffer. Word 6 is the status.
func exchange(t *testing.T, conn net.Conn, call, reply []byte) {
	if _, err := conn.Write(call); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, reply); err != nil {
		t.Fatal(err)
	}
	if reply[27] != byte(rpc.StatusOK) || reply[3] != byte(len(reply)) {
		t.Fatalf("answer %x", reply)
	}
}
