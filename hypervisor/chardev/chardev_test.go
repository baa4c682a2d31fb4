package chardev

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sink is a front end with limited room.
type sink struct {
	mu        sync.Mutex
	got       bytes.Buffer
	room      int
	drained   int
	connected []bool
}

func (s *sink) Room() int { s.mu.Lock(); defer s.mu.Unlock(); return s.room }
func (s *sink) Receive(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) > s.room {
		panic("more input than room")
	}
	s.room -= len(p)
	s.got.Write(p)
}
func (s *sink) Drained()         { s.mu.Lock(); s.drained++; s.mu.Unlock() }
func (s *sink) Connected(y bool) { s.mu.Lock(); s.connected = append(s.connected, y); s.mu.Unlock() }
func (s *sink) give(p *Port, n int) {
	s.mu.Lock()
	s.room += n
	s.mu.Unlock()
	p.Ready()
}
func (s *sink) input() string { s.mu.Lock(); defer s.mu.Unlock(); return s.got.String() }

// eventually waits for a state that other goroutines bring about; the limit only ends a broken test.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 1000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func start(t *testing.T, c Config, room int) (*Port, *sink) {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{room: room}
	p.Start(s)
	t.Cleanup(func() { p.Close() })
	return p, s
}

// openPTY returns a pty master and the path of its other side.
func openPTY(t *testing.T) (int, string) {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs /dev/ptmx: %v", err)
	}
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return m, fmt.Sprintf("/dev/pts/%d", n)
}

func openSlave(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tio, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	tio.Lflag, tio.Oflag, tio.Iflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, tio); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPTY(t *testing.T) {
	master, path := openPTY(t)
	p, s := start(t, Config{Type: PTY, FD: master}, 100)
	if p.Connected() {
		t.Skip("this kernel does not hang up a master whose other side was never opened")
	}
	p.Write([]byte("nobody listens"))
	eventually(t, "output without a reader is taken", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.out) == 0 })
	for round := range 3 {
		f := openSlave(t, path)
		fmt.Fprintf(f, "in%d", round)
		eventually(t, "input arrives", func() bool { return strings.HasSuffix(s.input(), fmt.Sprint("in", round)) })
		p.Write([]byte("hello"))
		buf := make([]byte, 64)
		n, err := f.Read(buf)
		if err != nil || string(buf[:n]) != "hello" {
			t.Fatalf("round %d: read %q, %v", round, buf[:n], err)
		}
		f.Close()
		eventually(t, "hangup is noticed", func() bool { return !p.Connected() })
	}
}

// TestPTYIdle counts how often the reader of a pty without other side asks the kernel.
func TestPTYIdle(t *testing.T) {
	master, path := openPTY(t)
	openSlave(t, path).Close()
	peer, err := newPeer(PTY, master, func() {})
	if err != nil {
		t.Fatal(err)
	}
	var reads int
	var mu sync.Mutex
	peer.(*streamPeer).hungUp = func() { mu.Lock(); reads++; mu.Unlock() }
	done := make(chan struct{})
	go func() { peer.read(make([]byte, 10)); close(done) }()
	time.Sleep(300 * time.Millisecond)
	mu.Lock()
	if reads > 3 {
		t.Errorf("%d reads of an idle pty", reads)
	}
	mu.Unlock()
	peer.close()
	<-done
}

func TestListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	p, s := start(t, Config{Type: Unix, FD: fd, Listener: true}, 3)
	for range 2 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "connection", p.Connected)
		s.mu.Lock()
		s.got.Reset()
		s.mu.Unlock()
		c.Write([]byte("abcdef"))
		eventually(t, "input up to the room", func() bool { return s.input() == "abc" })
		s.give(p, 3)
		eventually(t, "the rest", func() bool { return s.input() == "abcdef" })
		p.Write([]byte("out"))
		buf := make([]byte, 10)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "out" {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
		s.give(p, 3)
		c.Close()
		eventually(t, "disconnection", func() bool { return !p.Connected() })
	}
}

func TestFullBuffer(t *testing.T) {
	p, err := New(Config{Type: Null})
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, bufferSize+100)
	if n := p.Write(big); n != bufferSize {
		t.Errorf("took %d", n)
	}
	if n := p.Write(big); n != 0 {
		t.Errorf("took %d of a full buffer", n)
	}
	s := &sink{}
	p.Start(s)
	defer p.Close()
	eventually(t, "room is announced", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.drained > 0 })
	if n := p.Write(big[:10]); n != 10 {
		t.Errorf("took %d", n)
	}
}

func TestLogTurns(t *testing.T) {
	dir := t.TempDir()
	var fds []int
	for _, n := range []string{"a", "b"} {
		fd, err := unix.Open(filepath.Join(dir, n), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	l, err := newLogFiles(fds, 10)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		l.write([]byte(fmt.Sprintf("line%d\n", i)))
	}
	l.close()
	a, _ := os.ReadFile(filepath.Join(dir, "a"))
	b, _ := os.ReadFile(filepath.Join(dir, "b"))
	if len(a) > 10 || len(b) > 10 {
		t.Errorf("logs of %d and %d bytes, want at most 10", len(a), len(b))
	}
	if all := string(a) + string(b); !strings.Contains(string(b)+string(a), "line9\n") && !strings.Contains(all, "line9\n") {
		t.Errorf("the end is lost: %q %q", a, b)
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	p, err := New(Config{Type: Null})
	if err != nil {
		t.Fatal(err)
	}
	p.out = make([]byte, 0, bufferSize)
	b := []byte("x")
	if n := testing.AllocsPerRun(1000, func() { p.Write(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
