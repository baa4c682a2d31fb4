package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// terminal runs a program on a pseudoterminal, for a person who is not there.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	seen   bytes.Buffer
	done   chan struct{}
}

func newTerminal(t *testing.T, name string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudoterminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tm := &terminal{t: t, master: master, cmd: exec.Command(name, args...), done: make(chan struct{})}
	tm.cmd.Stdin, tm.cmd.Stdout, tm.cmd.Stderr = slave, slave, slave
	tm.cmd.Env = append(os.Environ(), "LC_ALL=C", "TERM=dumb")
	tm.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := tm.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	go tm.read()
	t.Cleanup(func() {
		tm.cmd.Process.Kill()
		master.Close()
		<-tm.done
	})
	return tm
}

func (tm *terminal) read() {
	defer close(tm.done)
	buf := make([]byte, 4096)
	for {
		n, err := tm.master.Read(buf)
		tm.mu.Lock()
		tm.seen.Write(buf[:n])
		tm.mu.Unlock()
		if err != nil {
			return // the program ended
		}
	}
}

func (tm *terminal) text() string {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	return tm.seen.String()
}

func (tm *terminal) waitFor(want string) {
	tm.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(tm.text(), want) {
			return
		}
	}
	tm.t.Fatalf("%q did not appear in:\n%s", want, tm.text())
}

func (tm *terminal) write(s string) {
	tm.t.Helper()
	if _, err := tm.master.WriteString(s); err != nil {
		tm.t.Fatal(err)
	}
}

func (tm *terminal) exit() int {
	tm.t.Helper()
	done := make(chan struct{})
	go func() { tm.cmd.Wait(); close(done) }()
	select {
	case <-done:
		return tm.cmd.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		tm.t.Fatalf("the program does not end; it wrote:\n%s", tm.text())
		return -1
	}
}

func startDemo(t testing.TB, b *testbed) libvirt.Domain {
	t.Helper()
	b.writeXML(t)
	dom, err := b.mgr.Define(context.Background(), replace(demoXML, "IMAGE", b.dir+"/disk.img"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := dom.Start(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	ref := dom.Ref()
	return libvirt.Domain{Name: ref.Name, UUID: libvirt.UUID(ref.UUID), ID: int32(ref.ID)}
}

// TestVirshConsole types on virsh's console: the guest echoes, a second console is refused, ^] leaves, --force takes it,
// and the end of the guest ends it.
func TestVirshConsole(t *testing.T) {
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip("virsh is not installed (package libvirt-clients)")
	}
	b := newTestbed(t)
	startDemo(t, b)
	uri := "qemu:///system?socket=" + b.sock
	first := newTerminal(t, virsh, "-c", uri, "console", "demo")
	first.waitFor("Escape character is ^]")
	first.write("hello guest")
	first.waitFor("hello guest")

	second := newTerminal(t, virsh, "-c", uri, "console", "demo")
	second.waitFor("error: operation failed: Active console session exists for this domain")
	if code := second.exit(); code != 1 {
		t.Errorf("the second console: exit %d", code)
	}
	first.write("\x1d")
	if code := first.exit(); code != 0 {
		t.Errorf("after ^]: exit %d, %s", code, first.text())
	}

	third := newTerminal(t, virsh, "-c", uri, "console", "demo", "--devname", "serial0", "--safe")
	third.waitFor("Escape character is ^]")
	third.write("abc")
	third.waitFor("abc")
	fourth := newTerminal(t, virsh, "-c", uri, "console", "demo", "--force")
	fourth.waitFor("Escape character is ^]")
	third.exit() // the console was taken from it
	fourth.write("xyz")
	fourth.waitFor("xyz")
	b.driver.Engine("demo").GuestPoweroff()
	fourth.exit()
}

// TestStalledConsole: a guest that takes no input does not hold up its client's other calls, nor the way out.
func TestStalledConsole(t *testing.T) {
	b := newTestbed(t)
	dom := startDemo(t, b)
	c := b.client(t, false)
	s, err := c.OpenStream(context.Background(), rpc.ProgramRemote, rpc.ProcDomainOpenConsole, &libvirt.DomainOpenConsoleArgs{Dom: dom}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The fake guest echoes; while nobody reads the echo it takes no more input.
	if _, err := s.Write(make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	var state libvirt.DomainGetStateRet
	if err := c.Call(context.Background(), rpc.ProgramRemote, rpc.ProcDomainGetState, &libvirt.DomainGetStateArgs{Dom: dom}, &state); err != nil || state.State != 1 {
		t.Errorf("%+v, %v", state, err)
	}
	if err := s.Abort(); err != nil {
		t.Error(err)
	}
}
