package labtest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
)

// AppendFiles writes a copy of an initramfs with more files in it and returns the copy's path, in a folder that goes
// with the test. Keys are paths in the guest without the leading slash; every file is executable. The file "cmd" is
// run by the lab's guests.
func AppendFiles(t testing.TB, initrd string, files map[string]string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "initrd")
	if err := appendFiles(out, initrd, files); err != nil {
		t.Fatalf("adding files to initramfs %s: %v", initrd, err)
	}
	return out
}

func appendFiles(out, initrd string, files map[string]string) (err error) {
	in, err := os.Open(initrd)
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	n, err := io.Copy(f, in)
	if err != nil {
		return err
	}
	// the kernel looks for the next archive at a multiple of four bytes
	if _, err := f.Write(make([]byte, -n&3)); err != nil {
		return err
	}
	_, err = f.Write(cpio(files))
	return err
}

// cpio makes an archive in the "newc" format of the kernel's Documentation/driver-api/early-userspace/
// buffer-format.rst, with the folders that the files need.
func cpio(files map[string]string) []byte {
	const file, folder = 0o100755, 0o040755
	var b bytes.Buffer
	inode := 0
	member := func(name string, mode int, data string) {
		inode++
		links := 1
		if mode == 0 {
			inode = 0
		}
		// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name)
		b.WriteByte(0)
		b.Write(make([]byte, -b.Len()&3))
		b.WriteString(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	made := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, d := range parents(name) {
			if !made[d] {
				made[d] = true
				member(d, folder, "")
			}
		}
		member(name, file, files[name])
	}
	member("TRAILER!!!", 0, "")
	return b.Bytes()
}

// parents lists the folders above a path, outermost first.
func parents(name string) []string {
	var out []string
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		out = append(out, d)
	}
	slices.Reverse(out)
	return out
}
