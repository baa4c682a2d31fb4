package rpc_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// sparseEcho is the flag by which the testbed's console sends back what it gets, holes as holes.
const sparseEcho = 99

func echoPieces(s *rpc.Stream) error {
	buf := make([]byte, 4096)
	for {
		hole, err := s.ReadHole()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if hole > 0 {
			err = s.WriteHole(hole)
		} else {
			var n int
			if n, err = s.Read(buf); err == nil {
				_, err = s.Write(buf[:n])
			}
		}
		if err != nil {
			return err
		}
	}
}

// holeMessage is a hole as clients send it.
type holeMessage struct {
	Length int64
	Flags  uint32
}

// openConsole opens the connection and a console with flags, of serial 7, by hand.
func openConsole(t *testing.T, b *testbed, flags uint32) (*net.UnixConn, rpc.Header, *rpc.FrameReader) {
	t.Helper()
	conn := rawDial(t, b)
	r := rpc.NewFrameReader(conn, 1<<20)
	t.Cleanup(func() { r.Close() })
	h := rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainOpenConsole, Serial: 7}
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen, Serial: 1}, &libvirt.ConnectOpenArgs{}))
	conn.Write(message(h, &libvirt.DomainOpenConsoleArgs{Flags: flags}))
	for range 2 {
		if got, _, _, err := r.Next(); err != nil || got.Status != rpc.StatusOK {
			t.Fatalf("reply %+v, %v", got, err)
		}
	}
	return conn, h, r
}

// TestHoles: holes come to the server's side and leave it as such, in order with data.
func TestHoles(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	conn, h, r := openConsole(t, b, sparseEcho)
	h.Status = rpc.StatusContinue
	hole := func(n int64) {
		h.Type = rpc.TypeStreamHole
		conn.Write(message(h, &holeMessage{Length: n}))
	}
	hole(1 << 40)
	h.Type = rpc.TypeStream
	data := append(message(h, nil), "data"...)
	rpc.FinishMessage(data)
	conn.Write(data)
	hole(0) // says nothing
	hole(4096)
	for _, want := range []struct {
		typ  rpc.MessageType
		hole int64
		data string
	}{{typ: rpc.TypeStreamHole, hole: 1 << 40}, {typ: rpc.TypeStream, data: "data"}, {typ: rpc.TypeStreamHole, hole: 4096}} {
		got, body, _, err := r.Next()
		if err != nil || got.Type != want.typ || got.Serial != 7 || got.Status != rpc.StatusContinue {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
		var m holeMessage
		if want.typ == rpc.TypeStream {
			if string(body) != want.data {
				t.Errorf("data %q, want %q", body, want.data)
			}
		} else if err := rpc.Unmarshal(body, &m); err != nil || m.Length != want.hole {
			t.Errorf("hole %+v, %v, want %d", m, err, want.hole)
		}
	}
}

// TestBadHoles: what is no hole, and a hole where none may be, ends that stream and nothing else.
func TestBadHoles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags uint32
		body  any
		want  string
	}{
		{"on a stream without holes", 0, &holeMessage{Length: 1}, "holes are not supported on this stream"},
		{"negative", sparseEcho, &holeMessage{Length: -1}, "hole of -1 bytes"},
		{"longer than a file", sparseEcho, &holeMessage{Length: 1<<62 + 1}, "hole of"},
		{"with flags", sparseEcho, &holeMessage{Length: 1, Flags: 1}, "flags 0x1"},
		{"cut off", sparseEcho, &struct{ Half uint32 }{1}, "unable to decode a hole"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestbed(t, rpc.Options{}, rpc.Policy{})
			conn, h, r := openConsole(t, b, tt.flags)
			h.Type, h.Status = rpc.TypeStreamHole, rpc.StatusContinue
			conn.Write(message(h, tt.body))
			got, body, _, err := r.Next()
			if err != nil || got.Type != rpc.TypeStream || got.Status != rpc.StatusError {
				t.Fatalf("got %+v, %v, want the stream's error", got, err)
			}
			if text := rpc.DecodeError(body).Error(); !strings.Contains(text, tt.want) {
				t.Errorf("error %q, want %q", text, tt.want)
			}
			conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectGetHostname, Serial: 8}, nil))
			if got, _, _, err := r.Next(); err != nil || got.Serial != 8 || got.Status != rpc.StatusOK {
				t.Errorf("the next call: %+v, %v", got, err)
			}
		})
	}
}
