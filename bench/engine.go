package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// patience is how long any guest may take to say what is waited for; the emulated host is slow.
const patience = time.Minute

// An engine is a running guest and the process that runs it.
type engine struct {
	cmd     *exec.Cmd
	started time.Time
	in      io.Writer

	mu    sync.Mutex
	seen  []byte
	mark  int
	ended bool
	more  chan struct{}
}

// start runs the guest on our engine.
func (h host) start(g guest) (*engine, error) {
	config, err := g.virtd(h.dir)
	if err != nil {
		return nil, err
	}
	return launch(h.vmm, "--config", config)
}

// startPeer runs the same guest on QEMU's trimmed board, the harder peer in everything that is measured after the start.
func (h host) startPeer(g guest) (*engine, error) { return launch(h.qemu, g.qemu(boardTrimmed)...) }

// startPeerAsItComes runs the same guest on QEMU's q35 with the board's default chips.
func (h host) startPeerAsItComes(g guest) (*engine, error) {
	return launch(h.qemu, g.qemu(boardQ35)...)
}

func launch(program string, args ...string) (*engine, error) {
	e := &engine{cmd: exec.Command(program, args...), more: make(chan struct{}, 1)}
	e.cmd.Env = append(os.Environ(), "GOTRACEBACK=all") // see stuck
	in, err := e.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	e.in = in
	e.cmd.Stderr = e
	e.started = time.Now()
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go e.read(out)
	return e, nil
}

// Write takes what the engine says on stderr into the console, for error messages.
func (e *engine) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, b...)
	return len(b), nil
}

func (e *engine) read(r io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		e.mu.Lock()
		e.seen = append(e.seen, buf[:n]...)
		e.ended = err != nil
		e.mu.Unlock()
		select {
		case e.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// expect waits for text on the console and returns what came before it since the last call.
func (e *engine) expect(text string) (string, error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		e.mu.Lock()
		rest, ended := e.seen[e.mark:], e.ended
		if i := bytes.Index(rest, []byte(text)); i >= 0 {
			e.mark += i + len(text)
			e.mu.Unlock()
			return string(rest[:i]), nil
		}
		tail := brief(rest)
		e.mu.Unlock()
		if ended {
			return "", fmt.Errorf("console ended without %q: %s", text, tail)
		}
		select {
		case <-e.more:
		case <-timeout.C:
			return "", fmt.Errorf("no %q on the console within %v: %s%s", text, patience, tail, e.stuck())
		}
	}
}

// brief keeps the beginning and the end of a long text.
func brief(b []byte) string {
	const most = 800
	if len(b) <= 2*most {
		return string(b)
	}
	return string(b[:most]) + "\n...\n" + string(b[len(b)-most:])
}

// interactive waits for the guest's shell and makes it fit for command.
func (e *engine) interactive() error {
	if _, err := e.expect("LAB-GUEST: shell"); err != nil {
		return err
	}
	// The shell echoes long lines with many movements of the cursor, and the emulated host has stopped in the middle of
	// such output, with either engine.
	_, err := e.command("set +o emacs; stty -echo")
	return err
}

// command types a shell command and returns what it printed.
func (e *engine) command(cmd string) (string, error) {
	// the echo of the typed line must not look like the marks
	if _, err := fmt.Fprintf(e.in, "echo BEG''IN; %s; echo E''ND=$?\n", cmd); err != nil {
		return "", err
	}
	if _, err := e.expect("BEGIN"); err != nil {
		return "", err
	}
	out, err := e.expect("END=")
	if err != nil {
		return "", err
	}
	status, err := e.expect("\n")
	if err != nil {
		return "", err
	}
	if s := strings.TrimSpace(status); s != "0" {
		return "", fmt.Errorf("guest command %q: status %s: %s", cmd, s, out)
	}
	return out, nil
}

// kill ends the engine and waits for it.
func (e *engine) kill() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

// finish waits for the guest to switch itself off.
func (e *engine) finish() error {
	done := make(chan error, 1)
	go func() { done <- e.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		_ = e.cmd.Process.Kill()
		<-done
		return errors.New("the guest did not switch off")
	}
}
