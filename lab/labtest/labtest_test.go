package labtest

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCpioLayout(t *testing.T) {
	b := cpio(map[string]string{"cmd": "echo hi\n", "a/b/c": "x"})
	if len(b)%4 != 0 {
		t.Errorf("archive of %d bytes is not a multiple of four", len(b))
	}
	var names []string
	for len(b) > 0 {
		if !bytes.HasPrefix(b, []byte("070701")) {
			t.Fatalf("no member header at %q", b[:min(len(b), 20)])
		}
		field := func(i int) int {
			n := 0
			for _, c := range b[6+8*i : 14+8*i] {
				n = n<<4 | strings.IndexByte("0123456789ABCDEF", c)
			}
			return n
		}
		size, nameSize := field(6), field(11)
		names = append(names, string(b[110:110+nameSize-1]))
		head := (110 + nameSize + 3) &^ 3
		b = b[head+(size+3)&^3:]
	}
	if got, want := strings.Join(names, " "), "a a/b a/b/c cmd TRAILER!!!"; got != want {
		t.Errorf("members: %s, want %s", got, want)
	}
}

func TestAppendFilesAligns(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(base, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(AppendFiles(t, base, map[string]string{"cmd": "true"}))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(got, []byte("12345\x00\x00\x00070701")) {
		t.Errorf("start of the result: %q", got[:20])
	}
}

func TestConsoleExpect(t *testing.T) {
	r, w := io.Pipe()
	var typed bytes.Buffer
	c := NewConsole(t, r, &typed)
	go func() {
		for _, s := range []string{"boo", "ting\nlog", "in: "} {
			_, _ = io.WriteString(w, s)
		}
		w.Close()
	}()
	if got := c.Expect("login:", time.Minute); got != "booting\n" {
		t.Errorf("before the prompt: %q", got)
	}
	c.Send("root\n")
	if typed.String() != "root\n" {
		t.Errorf("typed %q", typed.String())
	}
}

// The lab's own promise: a stock kernel boots under the peer, runs a command given to it and reports its status.
func TestLabGuestRunsCommand(t *testing.T) {
	Need(t, KVM, QEMU)
	for _, v := range Versions {
		t.Run(v, func(t *testing.T) {
			k := Kernel(v)
			initrd := AppendFiles(t, k.Initrd, map[string]string{"cmd": "echo this is $(uname -r); exit 7\n"})
			q := exec.Command("qemu-system-x86_64", "-M", "q35,hpet=off", "-accel", "kvm", "-cpu", "host", "-m", "256",
				"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", k.Image,
				"-initrd", initrd, "-append", QuietCmdline)
			out, err := q.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = q.Process.Kill(); _ = q.Wait() })
			c := NewConsole(t, out, nil)
			c.Expect("this is "+v+".", time.Minute)
			c.Expect("LAB-RC: 7", time.Minute)
		})
	}
}
