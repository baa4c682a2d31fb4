package daemon_test

import (
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"testing"

	"virtd/rpc"
)

// procedures are the numbers of the procedures that a client called.
type procedures struct {
	mu   sync.Mutex
	seen map[uint32]bool
}

func (s *procedures) list() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []uint32
	for n := range s.seen {
		out = append(out, n)
	}
	return out
}

// watch connects a client to the daemon and reads along.
func (s *procedures) watch(t *testing.T, b *testbed) net.Conn {
	t.Helper()
	conn, err := b.Dial()
	if err != nil {
		t.Fatal(err)
	}
	s.seen = map[uint32]bool{}
	return &watched{Conn: conn, s: s}
}

// watched is a connection whose client's packets are looked at: a length that counts itself, then program, version and
// procedure.
type watched struct {
	net.Conn
	s    *procedures
	head []byte
	left int // of the packet, behind its head
}

func (w *watched) Write(p []byte) (int, error) {
	for data := p; len(data) > 0; {
		if w.left > 0 {
			n := min(w.left, len(data))
			w.left, data = w.left-n, data[n:]
			continue
		}
		n := min(16-len(w.head), len(data))
		w.head, data = append(w.head, data[:n]...), data[n:]
		if len(w.head) == 16 {
			w.s.mu.Lock()
			w.s.seen[binary.BigEndian.Uint32(w.head[12:])] = true
			w.s.mu.Unlock()
			w.left, w.head = int(binary.BigEndian.Uint32(w.head))-16, nil
		}
	}
	return w.Conn.Write(p)
}

func procedureNames(numbers []uint32) []string {
	var names []string
	for _, n := range numbers {
		names = append(names, rpc.LookupProcedure(rpc.ProgramRemote, n).Name)
	}
	slices.Sort(names)
	return names
}
