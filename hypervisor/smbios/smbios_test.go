package smbios

import (
	"encoding/binary"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"virtd/hypervisor/memory"
)

var update = flag.Bool("update", false, "rewrite the golden file")

func config() Config {
	return Config{UUID: "12345678-9abc-def0-1234-56789abcdef0", Product: "Standard PC (Q35 + ICH9)", Version: "pc-q35-virtd-1.0",
		Sockets: 2, Cores: 4, Threads: 2, RAM: []memory.Range{{GPA: 0, Size: 3 << 30}, {GPA: 4 << 30, Size: 61 << 30}}}
}

func TestGolden(t *testing.T) {
	b, err := Build(config())
	if err != nil {
		t.Fatal(err)
	}
	got := hex.Dump(b)
	const path = "testdata/pc-q35-virtd-1.0.hex"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("the guest ABI changed (-want +got):\n%s", d)
	}
}

// TestWalk reads the tables as a guest does.
func TestWalk(t *testing.T) {
	b, err := Build(config())
	if err != nil {
		t.Fatal(err)
	}
	var sum byte
	for _, v := range b[:entrySize] {
		sum += v
	}
	at := binary.LittleEndian.Uint64(b[16:]) - Address
	size := binary.LittleEndian.Uint32(b[12:])
	if string(b[:5]) != "_SM3_" || sum != 0 || at+uint64(size) != uint64(len(b)) {
		t.Fatalf("entry point % x", b[:entrySize])
	}
	var kinds []byte
	handles := map[uint16]bool{}
	for p := b[at:]; len(p) > 0; {
		kind, n, handle := p[0], int(p[1]), binary.LittleEndian.Uint16(p[2:])
		if handles[handle] {
			t.Errorf("handle %#x twice", handle)
		}
		handles[handle] = true
		kinds = append(kinds, kind)
		end := strings.Index(string(p[n:]), "\x00\x00")
		texts := strings.Split(string(p[n:n+end]), "\x00")
		if kind == 1 {
			if got := hex.EncodeToString(p[8:24]); got != "78563412bc9af0de123456789abcdef0" {
				t.Errorf("UUID %s", got)
			}
			if texts[p[5]-1] != "Standard PC (Q35 + ICH9)" || p[7] != 0 {
				t.Errorf("strings %q", texts)
			}
		}
		if kind == 17 && (binary.LittleEndian.Uint16(p[12:]) != 0x7fff || binary.LittleEndian.Uint32(p[28:]) != 64<<10) {
			t.Errorf("memory device % x", p[:n])
		}
		p = p[n+end+2:]
	}
	if want := "\x00\x01\x03\x04\x04\x10\x11\x13\x13\x20\x7f"; string(kinds) != want {
		t.Errorf("types % x, want % x", kinds, want)
	}
}

func TestBadConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"UUID":        func(c *Config) { c.UUID = "12345678" },
		"long string": func(c *Config) { c.Serial = strings.Repeat("x", 65) },
		"zero byte":   func(c *Config) { c.Product = "a\x00b" },
		"too large":   func(c *Config) { c.Sockets = 2000 },
	} {
		c := config()
		change(&c)
		if _, err := Build(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
