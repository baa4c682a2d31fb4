package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// stuck describes an engine whose guest does not say what is waited for, for whoever looks for the reason: what the guest
// still answers, where the engine's threads wait, and which notifications nobody has taken. It ends the engine.
func (e *engine) stuck() string {
	var b strings.Builder
	e.mu.Lock()
	from := len(e.seen)
	e.mu.Unlock()
	// ^C ends the command that hangs
	_, _ = fmt.Fprintf(e.in, "\x03\ncat /proc/interrupts; ip -s link show eth0; cat /proc/uptime; dmesg | tail -5; echo E''ND\n")
	wait(5*time.Second, func() bool { return strings.Contains(string(e.since(from)), "END") })
	fmt.Fprintf(&b, "\nguest:\n%s", e.since(from))
	proc := fmt.Sprintf("/proc/%d", e.cmd.Process.Pid)
	tasks, _ := filepath.Glob(proc + "/task/*")
	for _, t := range tasks {
		fmt.Fprintf(&b, "\nthread %s: %s in %s", filepath.Base(t), line(t+"/comm"), line(t+"/wchan"))
	}
	infos, _ := filepath.Glob(proc + "/fdinfo/*")
	for _, f := range infos {
		text, _ := os.ReadFile(f)
		if strings.Contains(string(text), "eventfd-count") {
			fmt.Fprintf(&b, "\nfd %s: %s", filepath.Base(f), strings.Join(strings.Fields(string(text)), " "))
		}
	}
	e.mu.Lock()
	from = len(e.seen)
	e.mu.Unlock()
	// our engine prints its goroutines, and QEMU just ends
	_ = e.cmd.Process.Signal(syscall.SIGQUIT)
	wait(5*time.Second, func() bool { return false })
	fmt.Fprintf(&b, "\nengine:\n%s\n", e.since(from))
	return b.String()
}

func (e *engine) since(from int) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]byte(nil), e.seen[from:]...)
}

func line(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

// wait returns when done says so, or after a time.
func wait(most time.Duration, done func() bool) {
	for end := time.Now().Add(most); time.Now().Before(end) && !done(); {
		time.Sleep(100 * time.Millisecond)
	}
}
