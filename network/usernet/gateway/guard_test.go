package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func framed(frames ...[]byte) (out []byte) {
	for _, f := range frames {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(f))), f...)
	}
	return out
}

func frame(source byte, n int) []byte {
	f := make([]byte, n)
	if n > 11 {
		f[6], f[11] = 2, source
	}
	return f
}

// through returns what a guard passes on of what an engine sends.
func through(t testing.TB, sent []byte) ([]byte, *guard, error) {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	b.SetDeadline(time.Now().Add(20 * time.Second))
	go func() { a.Write(sent); a.Close() }()
	g := newGuard(b)
	got, err := io.ReadAll(g)
	a.Close()
	return got, g, err
}

func TestGuard(t *testing.T) {
	good := framed(frame(1, 14), frame(2, 60), frame(1, maxFrame))
	bad := framed(nil, frame(1, 13), append([]byte{0, 0, 0, 0, 0, 0, 1}, make([]byte, 20)...)) // short, short, from a group
	got, g, err := through(t, append(append(framed(frame(1, 14), frame(2, 60)), bad...), framed(frame(1, maxFrame))...))
	if err != nil || !bytes.Equal(got, good) || !g.ended() {
		t.Errorf("%d bytes passed, want %d; ended %v, %v", len(got), len(good), g.ended(), err)
	}
	var many, first []byte
	for i := range maxAddresses + 5 {
		many = append(many, framed(frame(byte(i+1), 20))...)
		if i < maxAddresses {
			first = append(first, framed(frame(byte(i+1), 20))...)
		}
	}
	if got, _, _ := through(t, many); !bytes.Equal(got, first) {
		t.Errorf("%d bytes of a guest with many addresses passed, want %d", len(got), len(first))
	}
	for _, sent := range [][]byte{{0xff, 0xff, 0xff, 0xff}, binary.BigEndian.AppendUint32(nil, maxFrame+1)} {
		if got, g, err := through(t, sent); !errors.Is(err, errFraming) || len(got) != 0 || g.ended() {
			t.Errorf("%x: %v after %d bytes, ended %v", sent, err, len(got), g.ended())
		}
	}
}

// FuzzGuard: what is passed on is whole frames with a header.
func FuzzGuard(f *testing.F) {
	f.Add(framed(frame(1, 60), frame(1, 3), frame(2, 14)))
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, sent []byte) {
		got, _, _ := through(t, sent)
		for len(got) > 0 {
			n := binary.BigEndian.Uint32(got)
			if n < minFrame || n > maxFrame || len(got) < int(prefix+n) {
				t.Fatalf("a frame of %d bytes in %d was passed on", n, len(got))
			}
			got = got[prefix+n:]
		}
	})
}
