package rpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
)

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
