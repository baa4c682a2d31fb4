package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"virtd/durable"
)

func TestWriteAndRemove(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.xml")
	// what a crash left, longer than what comes
	if err := os.WriteFile(filepath.Join(dir, ".new-a.xml"), make([]byte, 100), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two and more", "", "3"} {
		if err := durable.Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q, %v; want %q", got, err, text)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("in the directory: %v, %v", entries, err)
	}
	for range 2 { // the second time there is nothing
		if err := durable.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

func TestNewFileIsItsOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := durable.Write(path, nil); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// A write that fails leaves the old file and nothing else.
func TestFailure(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil { // no file replaces a directory
		t.Fatal(err)
	}
	err := durable.Write(path, []byte("x"))
	if want := "cannot write '" + path + "': File exists"; err == nil || err.Error() != want || !errors.Is(err, syscall.EEXIST) {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := durable.Remove(path); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("remove: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("in the directory: %v, %v", entries, err)
	}
	missing := filepath.Join(dir, "missing", "a")
	if err := durable.Write(missing, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
	if err := durable.SyncDir(filepath.Dir(missing)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestUnfinished(t *testing.T) {
	if !durable.Unfinished(".new-a.xml") || durable.Unfinished("a.xml") {
		t.Error("told apart wrongly")
	}
}
