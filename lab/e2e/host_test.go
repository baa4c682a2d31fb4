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
	user   *syscall.Credential // of virtd; nil is root
	daemon *exec.Cmd
	gone   chan struct{} // closed when daemon ended
}

// startHost starts virtd. It, its engines and its bridge are gone after the test.
func startHost(t *testing.T) *host {
	t.Helper()
	return startHostAs(t, nil)
}

// startHostAs starts a virtd that is not root.
func startHostAs(t *testing.T, user *syscall.Credential) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	// Engines run under uids of their own: what they are given by path must be reachable for virtd only.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if user != nil {
		if err := os.Chown(dir, int(user.Uid), int(user.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	h := &host{t: t, dir: dir, user: user}
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

func (h *host) uri() string {
	kind := "system"
	if h.user != nil {
		kind = "session"
	}
	return "qemu:///" + kind + "?socket=" + h.path("sock/libvirt-sock")
}

// startDaemon starts virtd on the host's folder, again after stopDaemon.
func (h *host) startDaemon() {
	h.t.Helper()
	log, err := os.OpenFile(h.path("virtd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.daemon = exec.Command(h.program("virtd"), "--state-dir", h.path("state"), "--run-dir", h.path("run"),
		"--log-dir", h.path("log"), "--socket-dir", h.path("sock"), "--emulator", h.program("virtd-vmm"))
	h.daemon.Stdout, h.daemon.Stderr = log, log
	if h.user != nil {
		h.daemon.SysProcAttr = &syscall.SysProcAttr{Credential: h.user}
	}
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

// program is a program of the project: the one built with the tests, unless the test put a newer one in the host's folder.
func (h *host) program(name string) string {
	if newer := h.path(name); exists(newer) {
		return newer
	}
	switch name { // test.sh builds what it finds named like this
	case "virtd":
		return labtest.Binary(h.t, "virtd")
	case "virtd-vmm":
		return labtest.Binary(h.t, "virtd-vmm")
	case "virtd-usernet": // virtd looks for it beside the engine
		return labtest.Binary(h.t, "virtd-usernet")
	}
	return labtest.Binary(h.t, "vctl")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
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
	engines, _ := filepath.Glob(h.path("log/*"))
	more, _ := filepath.Glob(h.path("log/*/*"))
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
		program = h.program(client)
	}
	cmd := exec.Command(program, append([]string{"-c", h.uri()}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s: %v", client, err)
	}
	if cmd.ProcessState.ExitCode() < 0 { // by a signal
		fmt.Fprintf(&errs, "%s: %v\n", client, cmd.ProcessState)
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

// refuses runs a client's command that must fail with status 1 and a text on stderr that contains want.
func (h *host) refuses(want, client string, args ...string) {
	h.t.Helper()
	out, errs, status := h.try(client, args...)
	if status != 1 || !strings.Contains(errs, want) {
		h.t.Errorf("%s %s: status %d, want 1 and %q\n%s%s", client, strings.Join(args, " "), status, want, out, errs)
	}
}

// kill ends a process as nothing it does can prevent.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
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
	return h.defineXML(g.name, g.xml(h))
}

// defineXML defines a domain from a document and returns its name.
func (h *host) defineXML(name, xml string) string {
	h.t.Helper()
	h.vctl("define", h.file(name+".xml", xml))
	return name
}

// file writes a file in the host's folder and returns its path.
func (h *host) file(name, text string) string {
	h.t.Helper()
	path := h.path(name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
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

// state checks the beginning of what domstate --reason says.
func (h *host) state(name, want string) {
	h.t.Helper()
	if got := h.vctl("domstate", "--reason", name); !strings.HasPrefix(got, want) {
		h.t.Errorf("domain %s is %s, want %s", name, strings.TrimSpace(got), want)
	}
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

// images is a folder on a file system that can bypass the page cache, as cache='none' needs; /tmp in the lab is a tmpfs,
// which cannot.
func (h *host) images() string {
	h.t.Helper()
	dir, file := h.path("images"), h.path("images.ext4")
	if exists(dir) {
		return dir
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.sh("modprobe loop; truncate -s 400M " + file + " && mkfs.ext4 -q -O ^has_journal " + file + " && mount -o loop " + file + " " + dir)
	h.t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	return dir
}

// image makes a raw image of size MiB and returns its path.
func (h *host) image(name string, size int64) string {
	h.t.Helper()
	file := filepath.Join(h.images(), name)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Truncate(file, size<<20); err != nil {
		h.t.Fatal(err)
	}
	return file
}

// sh runs a shell command in the lab host, which must succeed.
func (h *host) sh(command string) string {
	h.t.Helper()
	out, err := exec.Command("bash", "-c", command).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
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
