package daemon_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/rpc"
)

// pythonClient is a script run beside the test, which tells it what to do by lines.
type pythonClient struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
	pid int
}

// runClosing starts the script against a server of its own, with pings every interval and one that may be missed.
func runClosing(t *testing.T, interval time.Duration) (*pythonClient, *rpc.Server) {
	t.Helper()
	needClients(t)
	b := newTestbed(t)
	server := rpc.NewServer(b.registry, rpc.Options{Logger: slog.New(slog.DiscardHandler), KeepaliveInterval: interval, KeepaliveCount: 2})
	sock := filepath.Join(b.dir, "pinging-sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l, rpc.Policy{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		server.Shutdown(ctx)
	})
	p := runPython(t, "closing.py", "qemu:///system?socket="+sock)
	p.expect("keepalive: 0")
	pid, ok := strings.CutPrefix(p.line(), "pid ")
	if p.pid, err = strconv.Atoi(pid); !ok || err != nil {
		t.Fatalf("the script did not say its pid, but %q", pid)
	}
	return p, server
}

// runPython starts a script of testdata/python that reads lines and prints what the test expects.
func runPython(t *testing.T, script string, args ...string) *pythonClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, interpreter, append([]string{"testdata/python/" + script}, args...)...)
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
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
	return &pythonClient{t: t, in: in, out: bufio.NewScanner(out)}
}

func (p *pythonClient) line() string {
	if !p.out.Scan() {
		p.t.Fatalf("the script ended: %v", p.out.Err())
	}
	return strings.TrimSpace(p.out.Text())
}

func (p *pythonClient) expect(lines ...string) {
	p.t.Helper()
	for _, want := range lines {
		if got := p.line(); got != want {
			p.t.Errorf("got %q, want %q", got, want)
		}
	}
}

func (p *pythonClient) tell(step string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, step+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// TestKeepaliveBothWays: a client that pings every second and is pinged four times as often stays connected longer than
// either side would wait for an answer.
func TestKeepaliveBothWays(t *testing.T) {
	p, server := runClosing(t, 250*time.Millisecond)
	time.Sleep(4 * time.Second)
	p.tell("alive")
	p.expect("alive: 1 testhost")
	if n := server.Clients(); n != 1 {
		t.Errorf("%d clients, want 1", n)
	}
}

// TestKeepaliveDropsSilentClient: a client that is stopped answers no pings and is disconnected; when it goes on, its
// library says so.
func TestKeepaliveDropsSilentClient(t *testing.T) {
	p, server := runClosing(t, 250*time.Millisecond)
	if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); server.Clients() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a client that answers no pings is still connected after 20 s")
		}
	}
	if err := syscall.Kill(p.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.tell("closed")
	if got := p.line(); got != "closed: end of file" && got != "closed: error" && got != "closed: keepalive" {
		t.Errorf("got %q, want the close callback's reason", got)
	}
	p.expect("alive: 0")
}

// TestCloseCallback: a client is told when the daemon ends its connection.
func TestCloseCallback(t *testing.T) {
	p, server := runClosing(t, 5*time.Second)
	p.tell("alive")
	p.expect("alive: 1 testhost")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	p.tell("closed")
	p.expect("closed: end of file", "alive: 0")
	if got := p.line(); !strings.HasPrefix(got, "code 1 ") {
		t.Errorf("a call on the closed connection said %q, want an internal error", got)
	}
}
