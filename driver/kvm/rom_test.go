package kvm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/driver/kvm"
	"virtd/hypervisor/vfio"
)

// A ROM file that cannot be one is refused before the engine sees it.
func TestROMFile(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int64) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, says string }{
		{file("good", 4096), ""},
		{file("largest", vfio.MaxROM), ""},
		{file("empty", 0), "has 0 bytes; an expansion ROM has at least one and at most 16777216"},
		{file("large", vfio.MaxROM+1), "has 16777217 bytes"},
		{dir, "is a directory, not a regular file"},
		{fifo, "is a fifo, not a regular file"},
		{filepath.Join(dir, "missing"), "No such file"},
	} {
		err := kvm.OpenROMForTest(c.path)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", c.path, err, c.says)
		}
	}
}
