package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve runs a server of a directory's files on the loopback and returns its address.
func serve(t *testing.T, dir string) *net.UDPAddr {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Block: 1400, Open: func(name string) (File, error) { return root.Open(strings.TrimPrefix(name, "/")) }}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(conn) }()
	t.Cleanup(func() {
		conn.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		root.Close()
	})
	return conn.LocalAddr().(*net.UDPAddr)
}

func readRequest(name string, more ...string) []byte {
	out := []byte{0, opRead}
	for _, s := range append([]string{name, "octet"}, more...) {
		out = append(append(out, s...), 0)
	}
	return out
}

// fetch gets a file as a client does. lose says which data packets are not acknowledged when they come first.
func fetch(t *testing.T, at *net.UDPAddr, request []byte, lose func(block uint16) bool) (content []byte, said string) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteToUDP(request, at); err != nil {
		t.Fatal(err)
	}
	block, want, buf, lost := 512, uint16(1), make([]byte, 70000), map[uint16]bool{}
	for {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			t.Fatal(err)
		}
		if from.Port == at.Port {
			return nil, string(buf[4 : n-1])
		}
		number := binary.BigEndian.Uint16(buf[2:])
		ack := func(b uint16) {
			if _, err := conn.WriteToUDP([]byte{0, opAck, byte(b >> 8), byte(b)}, from); err != nil {
				t.Fatal(err)
			}
		}
		switch buf[1] {
		case opOACK:
			said = strings.ReplaceAll(string(buf[2:n]), "\x00", " ")
			if strings.Contains(said, "blksize 1400") {
				block = 1400
			}
			ack(0)
		case opError:
			return nil, string(buf[4 : n-1])
		case opData:
			if number != want {
				continue
			}
			if lose != nil && lose(number) && !lost[number] {
				lost[number] = true
				ack(number - 1) // an old one, which must cause nothing
				continue
			}
			content = append(content, buf[4:n]...)
			ack(number)
			if want++; n-4 < block {
				return content, said
			}
		}
	}
}

// TestTransfer: files of all sizes come whole, with options and without, and in spite of losses; what is not there is not found.
func TestTransfer(t *testing.T) {
	dir := t.TempDir()
	at := serve(t, dir)
	for _, size := range []int{0, 1, 511, 512, 1400, 100_000} {
		data := bytes.Repeat([]byte("boot"), size/4+1)[:size]
		if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, said := fetch(t, at, readRequest("/file"), nil); !bytes.Equal(got, data) || said != "" {
			t.Errorf("%d bytes: got %d, %q", size, len(got), said)
		}
		got, said := fetch(t, at, readRequest("file", "tsize", "0", "BLKSIZE", "8192", "windowsize", "4", "timeout", "1"), func(b uint16) bool { return b == 1 })
		if !bytes.Equal(got, data) || !strings.Contains(said, "blksize 1400 timeout 1 tsize ") || strings.Contains(said, "windowsize") {
			t.Errorf("%d bytes with options: got %d, %q", size, len(got), said)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"nothing": "file not found", "folder": "file not found", "../passwd": "the file cannot be read", "": "the request has no file name",
		strings.Repeat("x", 600): "the request has no file name",
	} {
		if got, said := fetch(t, at, readRequest(name), nil); got != nil || said != want {
			t.Errorf("%q: %d bytes, %q, want %q", name, len(got), said, want)
		}
	}
	write := readRequest("file")
	write[1] = 2
	if _, said := fetch(t, at, write, nil); said != "files can only be read" {
		t.Errorf("write: %q", said)
	}
}

// TestWrap: a file of more blocks than have numbers.
func TestWrap(t *testing.T) {
	dir := t.TempDir()
	at := serve(t, dir)
	data := bytes.Repeat([]byte("12345678"), 65540)
	if err := os.WriteFile(filepath.Join(dir, "long"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteToUDP(readRequest("long", "blksize", "8"), at); err != nil {
		t.Fatal(err)
	}
	total, buf := 0, make([]byte, 100)
	for {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			t.Fatal(err)
		}
		number := [2]byte(buf[2:4])
		if buf[1] == opOACK {
			number = [2]byte{}
		} else {
			total += n - 4
		}
		if _, err := conn.WriteToUDP([]byte{0, opAck, number[0], number[1]}, from); err != nil {
			t.Fatal(err)
		}
		if buf[1] == opData && n-4 < 8 {
			break
		}
	}
	if total != len(data) {
		t.Errorf("%d bytes of %d", total, len(data))
	}
}

// TestBounds: more transfers than there are places wait, and their places come back.
func TestBounds(t *testing.T) {
	s := &Server{}
	one := net.IPv4(10, 0, 0, 1).To4()
	a := net.UDPAddr{IP: one}
	addr := a.AddrPort().Addr()
	for i := range maxPerClient + 3 {
		if got := s.enter(addr); got != (i < maxPerClient) {
			t.Errorf("place %d: %v", i, got)
		}
	}
	for range maxPerClient {
		s.leave(addr)
	}
	if s.all != 0 || len(s.clients) != 0 {
		t.Errorf("left: %d, %v", s.all, s.clients)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(readRequest("a"))
	f.Add(readRequest("a", "blksize", "8", "tsize", "0", "timeout", "255"))
	f.Add([]byte{0, opError, 0, 0, 0})
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := parse(packet, 1400)
		var no refusal
		if err != nil {
			if errors.As(err, &no) && len(failure(no)) > 100 {
				t.Error("a long refusal")
			}
			return
		}
		if r.name == "" || r.block < minBlock || r.block > 1400 || r.timeout < time.Second || len(r.acknowledgement(1<<40)) > 2*len(packet)+64 {
			t.Errorf("%+v", r)
		}
	})
}
