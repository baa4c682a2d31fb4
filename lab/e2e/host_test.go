package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// host is one virtd with state and sockets of its own.
type host struct {
	t      *testing.T
	dir    string
	daemon *exec.Cmd
	gone   chan struct{} // closed when daemon ended
}

// startHost starts virtd. It, its engines and its bridge are gone after the test.
func startHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	// Engines run under uids of their own: what they are given by path must be reachable for virtd only.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir}
	t.Cleanup(func() {
		h.destroyAll()
		h.stopDaemon(syscall.SIGTERM)
		if t.Failed() {
			h.printLogs()
		}
		os.RemoveAll(dir)
	})
	h.startDaemon()
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) uri() string { return "qemu:///system?socket=" + h.path("sock/libvirt-sock") }

// startDaemon starts virtd on the host's folder, again after stopDaemon.
func (h *host) startDaemon() {
	h.t.Helper()
	log, err := os.OpenFile(h.path("virtd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.daemon = exec.Command(labtest.Binary(h.t, "virtd"), "--state-dir", h.path("state"), "--run-dir", h.path("run"),
		"--socket-dir", h.path("sock"), "--emulator", labtest.Binary(h.t, "virtd-vmm"))
	h.daemon.Stdout, h.daemon.Stderr = log, log
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.gone = make(chan struct{})
	go func(d *exec.Cmd, gone chan struct{}) { d.Wait(); close(gone) }(h.daemon, h.gone)
	h.until(30*time.Second, "virtd's socket", func() bool {
		select {
		case <-h.gone:
			h.t.Fatal("virtd ended at once")
		default:
		}
		c, err := net.Dial("unix", h.path("sock/libvirt-sock"))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// stopDaemon sends sig and waits for virtd's end.
func (h *host) stopDaemon(sig syscall.Signal) {
	if h.daemon == nil {
		return
	}
	h.daemon.Process.Signal(sig)
	select {
	case <-h.gone:
	case <-time.After(20 * time.Second):
		h.t.Errorf("virtd does not end on %v", sig)
		h.daemon.Process.Kill()
		<-h.gone
	}
	h.daemon = nil
}

func (h *host) destroyAll() {
	out, _, _ := h.try("vctl", "list", "--name")
	for _, name := range strings.Fields(out) {
		h.try("vctl", "destroy", name)
	}
}

func (h *host) printLogs() {
	logs, _ := filepath.Glob(h.path("*.log"))
	engines, _ := filepath.Glob(h.path("run/*/*.log"))
	more, _ := filepath.Glob(h.path("run/*/*/*.log"))
	for _, file := range append(append(logs, engines...), more...) {
		data, _ := os.ReadFile(file)
		if len(data) > 4000 {
			data = data[len(data)-4000:]
		}
		h.t.Logf("--- %s\n%s", file, data)
	}
}

// try runs a client (vctl or virsh) and returns what it printed and its exit status.
func (h *host) try(client string, args ...string) (stdout, stderr string, status int) {
	h.t.Helper()
	program := client
	if client == "vctl" {
		program = labtest.Binary(h.t, "vctl")
	}
	cmd := exec.Command(program, append([]string{"-c", h.uri()}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s: %v", client, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// vctl runs a vctl command that must succeed.
func (h *host) vctl(args ...string) string { h.t.Helper(); return h.must("vctl", args...) }

// virsh runs a virsh command that must succeed.
func (h *host) virsh(args ...string) string { h.t.Helper(); return h.must("virsh", args...) }

func (h *host) must(client string, args ...string) string {
	h.t.Helper()
	out, errs, status := h.try(client, args...)
	if status != 0 {
		h.t.Fatalf("%s %s: status %d\n%s%s", client, strings.Join(args, " "), status, out, errs)
	}
	return out
}

// until polls until ok, and fails the test when it is not within the time.
func (h *host) until(within time.Duration, what string, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("no %s within %v", what, within)
		}
	}
}

// define defines the guest and returns its name.
func (h *host) define(g guest) string {
	h.t.Helper()
	file := h.path(g.name + ".xml")
	if err := os.WriteFile(file, []byte(g.xml(h)), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.vctl("define", file)
	return g.name
}

// output is what the guest wrote to its serial port so far.
func (h *host) output(name string) string {
	data, _ := os.ReadFile(h.path(name + ".console"))
	return string(data)
}

// expect waits until the guest wrote text.
func (h *host) expect(name, text string, within time.Duration) {
	h.t.Helper()
	defer func() {
		if h.t.Failed() {
			h.t.Logf("--- console of %s\n%s", name, tail(h.output(name), 3000))
		}
	}()
	h.until(within, fmt.Sprintf("%q on the console of %s", text, name), func() bool { return strings.Contains(h.output(name), text) })
}

// finish waits until the guest's command succeeded and the guest is off.
func (h *host) finish(name string, within time.Duration) {
	h.t.Helper()
	h.expect(name, "LAB-RC: ", within)
	if !strings.Contains(h.output(name), "LAB-RC: 0") {
		h.t.Fatalf("the command in %s failed:\n%s", name, tail(h.output(name), 3000))
	}
	h.off(name, 60*time.Second)
}

// off waits until a domain is shut off.
func (h *host) off(name string, within time.Duration) {
	h.t.Helper()
	h.until(within, name+" shut off", func() bool { return strings.TrimSpace(h.vctl("domstate", name)) == "shut off" })
}

// engine is the process id of a domain's engine.
func (h *host) engine(name string) int {
	h.t.Helper()
	uuid := h.uuid(name)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if args := strings.Split(string(cmdline), "\x00"); strings.HasSuffix(args[0], "virtd-vmm") && strings.Contains(string(cmdline), uuid) {
			return pid
		}
	}
	h.t.Fatalf("no engine process of %s (%s)", name, uuid)
	return 0
}

func (h *host) uuid(name string) string {
	h.t.Helper()
	var info struct{ UUID string }
	if err := json.Unmarshal([]byte(h.vctl("-o", "json", "dominfo", name)), &info); err != nil {
		h.t.Fatal(err)
	}
	return info.UUID
}

// bridge makes a bridge with an address in the lab host. It is gone after the test.
func (h *host) bridge(name, address string) {
	h.t.Helper()
	for _, args := range [][]string{{"link", "add", name, "type", "bridge"}, {"addr", "add", address, "dev", name}, {"link", "set", name, "up"}} {
		h.ip(args...)
	}
	h.t.Cleanup(func() { exec.Command("ip", "link", "del", name).Run() })
}

func (h *host) ip(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}
