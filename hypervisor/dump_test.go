package hypervisor

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"virtd/hypervisor/monitor"
)

// core reads 4 bytes at a guest address out of a core file, and the first vCPU's instruction pointer.
func core(t *testing.T, path string, gpa uint64) (word uint32, rip uint64) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_CORE || f.Machine != elf.EM_X86_64 {
		t.Fatalf("%v for %v", f.Type, f.Machine)
	}
	for _, p := range f.Progs {
		var b [4]byte
		switch {
		case p.Type == elf.PT_NOTE:
			var note [400]byte
			if _, err := p.ReadAt(note[:], 0); err != nil {
				t.Fatal(err)
			}
			rip = binary.LittleEndian.Uint64(note[12+8+112+16*8:])
		case p.Type == elf.PT_LOAD && gpa-p.Paddr < p.Filesz:
			if _, err := p.ReadAt(b[:], int64(gpa-p.Paddr)); err != nil {
				t.Fatal(err)
			}
			word = binary.LittleEndian.Uint32(b[:])
		}
	}
	return word, rip
}

func TestDump(t *testing.T) {
	m := richGuest(t, "", nil)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	m.serial.Write([]byte("a"))
	m.wantSerial("a")
	for _, live := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "core")
		if err := m.Dump(context.Background(), create(t, path), live); err != nil {
			t.Fatal(err)
		}
		count, rip := core(t, path, 0x9000)
		if count == 0 || rip < 0x100000 || rip > 0x100100 {
			t.Errorf("live %v: count %d, rip %#x", live, count, rip)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() < 32<<20 {
			t.Errorf("the file has %d bytes for 32 MiB of RAM", st.Size())
		}
		var sys unix.Stat_t
		if err := unix.Stat(path, &sys); err != nil || sys.Blocks*512 > 8<<20 {
			t.Errorf("the file occupies %d bytes, %v", sys.Blocks*512, err)
		}
		if s, _ := m.Status(); s != StateRunning {
			t.Errorf("state %s after a dump", s)
		}
	}
	m.wantEvents("STOP RESUME STOP RESUME")
	m.serial.Write([]byte("bq"))
	m.wantSerial("bq")
	m.wantEnd(ExitShutdown)
}

// TestDumpToPipe: what cannot be positioned gets zeroes.
func TestDumpToPipe(t *testing.T) {
	m := bootGuest(t, guestHalt, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := filepath.Join(t.TempDir(), "core")
	copied := make(chan error)
	go func() {
		out := create(t, path)
		_, err := io.Copy(out, r)
		copied <- errors.Join(err, out.Close())
	}()
	if err := errors.Join(m.Dump(context.Background(), w, false), <-copied); err != nil {
		t.Fatal(err)
	}
	if _, rip := core(t, path, 0x9000); rip < 0x100000 || rip > 0x100100 {
		t.Errorf("rip %#x", rip)
	}
}

func TestDumpOfCrashed(t *testing.T) {
	m := bootGuest(t, guestPanic, func(c *Config) { c.OnCrash = ActionPreserve })
	eventually(t, "crashed", func() bool { s, _ := m.Status(); return s == StateCrashed })
	path := filepath.Join(t.TempDir(), "core")
	if err := m.Dump(context.Background(), create(t, path), false); err != nil {
		t.Fatal(err)
	}
	if _, rip := core(t, path, 0); rip < 0x100000 || rip > 0x100100 {
		t.Errorf("rip %#x", rip)
	}
	if s, _ := m.Status(); s != StateCrashed {
		t.Errorf("state %s", s)
	}
	if err := m.Save(context.Background(), create(t, path), monitor.Described{}); err == nil {
		t.Error("a crashed guest was saved")
	}
}

// TestStopEndsDump: a machine that ends takes RAM away only when the dump reads no more.
func TestStopEndsDump(t *testing.T) {
	m := bootGuest(t, guestEcho, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dumped := make(chan error, 1)
	go func() { dumped <- m.Dump(context.Background(), w, true) }()
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil { // it is under way, and stuck
		t.Fatal(err)
	}
	go func() { time.Sleep(50 * time.Millisecond); io.Copy(io.Discard, r) }()
	m.Stop(ExitQuit, "")
	m.wantEnd(ExitQuit)
	if err := <-dumped; !errors.Is(err, errCanceled) {
		t.Errorf("the dump of a machine that ended: %v", err)
	}
}
