package coredump

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGDB: an unmodified gdb shows a thread for each vCPU with its registers, and RAM by its physical address on both sides
// of the hole.
func TestGDB(t *testing.T) {
	if _, err := exec.LookPath("gdb"); err != nil {
		t.Skip("gdb is not installed")
	}
	cpus := []CPU{
		{RIP: 0xffffffff81000000, RSP: 0xffffc90000001000, RAX: 1, RFLAGS: 0x246, CS: Segment{Selector: 0x10}},
		{RIP: 0x7f0000001234, RSP: 0x7ffc00000000, R15: 15, RFLAGS: 0x202, CS: Segment{Selector: 0x33}, FS: Segment{Base: 0x7f1111110000}},
	}
	layout, err := Layout(cpus, []Region{{0, 2 << 20}, {4 << 30, 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "core")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put := func(at uint64, word uint64) {
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, word), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(layout.Head, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(layout.Size)); err != nil {
		t.Fatal(err)
	}
	put(layout.Offsets[0]+0x100000, 0x1122334455667788)
	put(layout.Offsets[1]+0xff8, 0xaabbccddeeff0011)
	out, err := exec.Command("gdb", "-batch", "-nx", "-core="+path, "-ex", "info threads",
		"-ex", "thread 1", "-ex", "info registers rip rsp cs eflags", "-ex", "thread 2", "-ex", "info registers rip r15 cs fs_base",
		"-ex", "x/1xg 0x100000", "-ex", "x/1xg 0x100000ff8").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{
		"LWP 1", "LWP 2", "rip 0xffffffff81000000", "rsp 0xffffc90000001000", "cs 0x10 16", "eflags 0x246",
		"rip 0x7f0000001234", "r15 0xf 15", "cs 0x33 51", "fs_base 0x7f1111110000",
		"0x100000: 0x1122334455667788", "0x100000ff8: 0xaabbccddeeff0011",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("gdb does not say %q:\n%s", want, out)
		}
	}
}
