package imagelock

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func image(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestModesExcludeEachOther(t *testing.T) {
	for _, c := range []struct {
		first, second Mode
		free          bool
	}{
		{ReadOnly, ReadOnly, true},
		{ReadOnly, Exclusive, false},
		{ReadOnly, Shared, false},
		{Exclusive, ReadOnly, false},
		{Exclusive, Exclusive, false},
		{Exclusive, Shared, false},
		{Shared, ReadOnly, false},
		{Shared, Exclusive, false},
		{Shared, Shared, true},
	} {
		path := image(t)
		a, b := open(t, path), open(t, path)
		if err := Take(a, c.first); err != nil {
			t.Fatal(err)
		}
		err := Take(b, c.second)
		var conflict *Conflict
		if (err == nil) != c.free || err != nil && !errors.As(err, &conflict) {
			t.Errorf("%v after %v: %v", c.second, c.first, err)
		}
		if err := Release(a); err != nil {
			t.Fatal(err)
		}
		if !c.free { // the refused one left nothing behind
			if err := Take(open(t, path), Exclusive); err != nil {
				t.Errorf("after a refused %v: %v", c.second, err)
			}
		}
	}
}

func TestLockGoesWithTheOpenFile(t *testing.T) {
	path := image(t)
	a, b := open(t, path), open(t, path)
	if err := Take(a, Exclusive); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(a.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := Take(b, ReadOnly); err == nil {
		t.Fatal("the lock ended with one of two descriptors")
	}
	unix.Close(fd)
	if err := Take(b, ReadOnly); err != nil {
		t.Fatal(err)
	}
}

// TestHelper is not a test: it is the other process of the tests below.
func TestHelper(t *testing.T) {
	path := os.Getenv("IMAGELOCK_HELPER")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = Take(f, Exclusive)
	}
	fmt.Println("locked", err)
	bufio.NewReader(os.Stdin).ReadByte() // until the parent closes it
	os.Exit(0)
}

func TestHolderIsNamed(t *testing.T) {
	path := image(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), "IMAGELOCK_HELPER="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "locked <nil>\n" {
		t.Fatal(line, err)
	}
	f := open(t, path)
	var conflict *Conflict
	if err := Take(f, ReadOnly); !errors.As(err, &conflict) {
		t.Fatal(err)
	}
	holders := Holders(f, conflict.Byte)
	if len(holders) != 1 || holders[0].PID != cmd.Process.Pid || holders[0].Name == "" {
		t.Fatalf("%+v, want pid %d", holders, cmd.Process.Pid)
	}
}

func TestQEMUToolsRespectTheLockAndWeTheirs(t *testing.T) {
	qemuIO, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("needs qemu-io to lock an image from the other side")
	}
	path := image(t)
	f := open(t, path)
	if err := Take(f, Exclusive); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(qemuIO, "-f", "raw", "-c", "write 0 512", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "lock") {
		t.Fatalf("qemu-io writes an image we use: %v\n%s", err, out)
	}
	if err := Release(f); err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command(qemuIO, "-f", "raw", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Wait() }()
	fmt.Fprintln(in, "read 0 512")
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	var conflict *Conflict
	if err := Take(f, Exclusive); !errors.As(err, &conflict) {
		t.Fatalf("we write an image that qemu-io uses: %v", err)
	}
	if h := Holders(f, conflict.Byte); len(h) != 1 || h[0].Name != "qemu-io" {
		t.Fatalf("%+v", h)
	}
}

func TestLockLine(t *testing.T) {
	for line, want := range map[string]bool{
		"lock:\t1: OFDLCK ADVISORY  READ -1 08:01:77 100 101":   true,
		"lock:\t1: OFDLCK ADVISORY  READ -1 08:01:77 101 EOF":   true,
		"lock:\t1: OFDLCK ADVISORY  READ -1 08:01:77 102 103":   false,
		"lock:\t1: OFDLCK ADVISORY  READ -1 08:01:78 100 101":   false,
		"lock:\t1: POSIX  ADVISORY  READ 12 08:01:77 100 101":   false,
		"lock:\t1: OFDLCK ADVISORY  READ -1 08:01:77 x 101":     false,
		"lock:\t1: OFDLCK ADVISORY  READ -1 08:01:77 100 y":     false,
		"lock:\t1: -> OFDLCK ADVISORY READ -1 08:01:77 100 101": false,
		"": false, "pos:\t0": false,
	} {
		if got := lockLine(line, 77, 101); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func FuzzLockLine(f *testing.F) {
	f.Add("lock:\t1: OFDLCK ADVISORY  READ -1 08:01:77 100 101")
	f.Fuzz(func(t *testing.T, line string) { lockLine(line, 77, 101) })
}
