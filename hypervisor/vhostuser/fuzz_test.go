package vhostuser

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// pieces is a receiver of bytes that come in pieces, with control messages from the same bytes.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) receive(b, oob []byte) (n, oobn, flags int, err error) {
	if len(p.data) == 0 {
		return 0, 0, 0, errEnded
	}
	n = copy(b[:min(len(b), p.size)], p.data)
	p.data = p.data[n:]
	if n%3 == 0 { // a control message of nonsense: it must name no descriptor that is open, or the test would close its own
		oobn = copy(oob, p.data[:min(len(p.data), 12)])
	}
	return n, oobn, int(p.size) & unix.MSG_CTRUNC, nil
}

// FuzzReadMessage: whatever comes, it is a message within its limits or an error, and reading it ends.
func FuzzReadMessage(f *testing.F) {
	m := message{request: getFeatures, flags: flagVersion | flagReply, payload: word(1 << 32)}
	f.Add(m.encode(), 7)
	f.Add(append(m.encode(), m.encode()...), 1)
	f.Add([]byte{1, 0, 0, 0, 5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 100)
	f.Add([]byte{}, 1)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		r := &pieces{data: data, size: min(max(size, 1), 64)}
		for {
			before := len(r.data)
			m, err := readMessage(r)
			if err != nil {
				if len(m.fds) > 0 {
					t.Fatal("descriptors with an error")
				}
				if !errors.Is(err, errEnded) && !errors.Is(err, ErrProtocol) {
					t.Fatalf("an error of neither kind: %v", err)
				}
				return
			}
			if len(m.payload) > maxPayload || m.flags&flagVersionMask != flagVersion || before-len(r.data) < headerSize {
				t.Fatalf("message %+v of %d bytes", m, before-len(r.data))
			}
			again := m.encode()
			if len(again) != headerSize+len(m.payload) {
				t.Fatalf("%d bytes when encoded again", len(again))
			}
		}
	})
}

// TestPayloads compares what is sent with the structures of the specification.
func TestPayloads(t *testing.T) {
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"state":    {vringState(1, 2), "\x01\x00\x00\x00\x02\x00\x00\x00"},
		"address":  {vringAddr(3, 4, 5, 6), "\x03\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		"config":   {configSpace(32, []byte{1}), "\x20\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"},
		"inflight": {(&inflight{size: 1, offset: 2, queues: 3, entries: 4}).payload(), "\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03\x00\x04\x00"},
		"memory": {memoryTable([]memoryRegion{{1, 2, 3, 4}}), "\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00" +
			"\x03\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00"},
		"message": {(&message{request: setOwner, flags: flagVersion | flagNeedReply, payload: []byte{9}}).encode(), "\x03\x00\x00\x00\x09\x00\x00\x00\x01\x00\x00\x00\x09"},
	} {
		if string(c.got) != c.want {
			t.Errorf("%s: % x", name, c.got)
		}
	}
}
