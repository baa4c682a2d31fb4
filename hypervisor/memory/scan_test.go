package memory

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestScan(t *testing.T) {
	m, err := New(Backing{Kind: Anonymous}, Range{0, 600 * PageSize}, Range{1 << 32, 2 * PageSize})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, page := range []uint64{0, 254, 255, 256, 599} {
		if err := m.WriteAt([]byte{byte(page) | 1}, page*PageSize+4095); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.WriteAt([]byte{9}, 1<<32+PageSize); err != nil {
		t.Fatal(err)
	}
	var runs []string
	var looked uint64
	err = m.Scan(func(gpa uint64, data []byte) error {
		runs = append(runs, fmt.Sprintf("%#x+%d", gpa/PageSize, len(data)/PageSize))
		want, err := m.Slice(gpa, uint64(len(data)))
		if err != nil || !bytes.Equal(data, want) {
			t.Errorf("pages at %#x differ from RAM: %v", gpa, err)
		}
		return nil
	}, func(n uint64) error { looked += n; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(runs, " "), "0x0+1 0xfe+2 0x100+1 0x257+1 0x100001+1"; got != want {
		t.Errorf("runs %s, want %s", got, want)
	}
	if looked != m.Size() {
		t.Errorf("looked at %d of %d bytes", looked, m.Size())
	}
	stop := errors.New("enough")
	if err := m.Scan(func(uint64, []byte) error { return stop }, nil); !errors.Is(err, stop) {
		t.Errorf("an error of the receiver: %v", err)
	}
	if err := m.Scan(func(uint64, []byte) error { return nil }, func(uint64) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the counter: %v", err)
	}
}
