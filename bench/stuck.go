package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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
	fmt.Fprintf(&b, "\nexits of all guests:\n%s", exits())
	e.mu.Lock()
	from = len(e.seen)
	e.mu.Unlock()
	// our engine prints its goroutines, and QEMU just ends
	_ = e.cmd.Process.Signal(syscall.SIGQUIT)
	wait(5*time.Second, func() bool { return false })
	fmt.Fprintf(&b, "\nengine:\n%s\n", e.since(from))
	return b.String()
}

// exits traces for a moment what KVM does for guests on this host, with an instance of its own, so that whoever traces
// something else notices nothing. Where a vCPU runs, at least clock ticks end its turns, and tell where in the guest it was.
func exits() string {
	const folder, most = "/sys/kernel/debug/tracing/instances/virtd-bench", 4000
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err.Error()
	}
	defer os.Remove(folder)
	if err := os.WriteFile(folder+"/events/kvm/enable", []byte("1"), 0); err != nil {
		return err.Error()
	}
	time.Sleep(50 * time.Millisecond)
	text, err := os.ReadFile(folder + "/trace")
	if err != nil {
		return err.Error()
	}
	return string(text[:min(len(text), most)]) + hostSymbols(text)
}

var exitAddress = regexp.MustCompile(`kvm_exit: .* rip 0x([0-9a-f]+)`)

// hostSymbols tells what is at the addresses of a trace's guests on this host. It means something only where a guest runs with
// the host's state: behind VMRUN in kvm_amd.
func hostSymbols(trace []byte) string {
	table, _ := os.ReadFile("/proc/kallsyms")
	seen := map[string]bool{}
	var out strings.Builder
	for _, m := range exitAddress.FindAllSubmatch(trace, -1) {
		if seen[string(m[1])] {
			continue
		}
		seen[string(m[1])] = true
		rip, _ := strconv.ParseUint(string(m[1]), 16, 64)
		best, name := uint64(0), ""
		for l := range strings.Lines(string(table)) {
			f := strings.Fields(l)
			a, _ := strconv.ParseUint(f[0], 16, 64)
			if a <= rip && a > best {
				best, name = a, strings.Join(f[2:], " ")
			}
		}
		fmt.Fprintf(&out, "\nrip %x: %s+%#x on this host", rip, name, rip-best)
	}
	return out.String()
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
