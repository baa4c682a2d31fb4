package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
	"virtd/virterr"
)

// TestMain lets the test's own binary be virtd, or a client of another user.
func TestMain(m *testing.M) {
	switch os.Getenv("VIRTD_TEST_AS") {
	case "virtd":
		if os.Getenv("LISTEN_FDS") != "" {
			os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())) // systemd sets it between fork and exec
		}
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	case "client":
		os.Exit(clientMain(os.Args[1]))
	}
	os.Exit(m.Run())
}

// clientMain opens a connection and prints how that went.
func clientMain(path string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, path)
	if err == nil {
		err = c.Open(ctx, "qemu:///system", false)
	}
	if err == nil {
		err = c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{}, nil)
	}
	fmt.Println(err)
	return 0
}

// process is a virtd that the test started.
type process struct {
	*exec.Cmd
	out  bytes.Buffer // read only after wait
	sock string
	done chan error
}

func startVirtd(t *testing.T, dir string, files []*os.File, args ...string) *process {
	t.Helper()
	p := &process{sock: filepath.Join(dir, "sock/libvirt-sock"), done: make(chan error, 1)}
	p.Cmd = exec.Command(os.Args[0], append([]string{
		"--session=false", "--state-dir", dir + "/state", "--run-dir", dir + "/run", "--log-dir", dir + "/log", "--socket-dir", dir + "/sock",
	}, args...)...)
	p.Env = append(os.Environ(), "VIRTD_TEST_AS=virtd", "NOTIFY_SOCKET="+dir+"/notify")
	p.Stderr = &p.out
	if len(files) > 0 {
		p.ExtraFiles = files
		p.Env = append(p.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)))
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir + "/notify")
	defer notify.Close()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.Wait() }()
	t.Cleanup(func() { p.Process.Kill() })
	notify.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 100)
	n, err := notify.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		p.Process.Kill()
		<-p.done
		t.Fatalf("virtd did not become ready: %q, %v\n%s", buf[:n], err, p.out.String())
	}
	return p
}

// end sends a signal and returns what virtd wrote, and its exit status.
func (p *process) end(t *testing.T, sig syscall.Signal) (string, error) {
	t.Helper()
	p.Process.Signal(sig)
	select {
	case err := <-p.done:
		return p.out.String(), err
	case <-time.After(30 * time.Second):
		t.Fatal("virtd did not end")
		return "", nil
	}
}

// shortDir is a directory whose path leaves room for the names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(t *testing.T, path string) *client.Client {
	t.Helper()
	c, err := client.Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Open(context.Background(), "qemu:///system", false); err != nil {
		t.Fatal(err)
	}
	return c
}

const document = `<domain type='kvm'><name>kept</name><memory unit='MiB'>64</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>`

// TestDefinitionsSurviveKill: what define answered is there after kill -9, under both names of the socket.
func TestDefinitionsSurviveKill(t *testing.T) {
	dir := shortDir(t)
	p := startVirtd(t, dir, nil)
	c := open(t, p.sock)
	ctx := context.Background()
	var defined libvirt.DomainDefineXMLRet
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainDefineXML, &libvirt.DomainDefineXMLArgs{XML: document}, &defined); err != nil {
		t.Fatal(err)
	}
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainSetAutostart, &libvirt.DomainSetAutostartArgs{Dom: defined.Dom, Autostart: 1}, nil); err != nil {
		t.Fatal(err)
	}
	p.end(t, syscall.SIGKILL)
	p = startVirtd(t, dir, nil) // over the sockets that the first one left
	for _, name := range []string{"libvirt-sock", "virtqemud-sock"} {
		c := open(t, filepath.Join(dir, "sock", name))
		var found libvirt.DomainLookupByNameRet
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainLookupByName, &libvirt.DomainLookupByNameArgs{Name: "kept"}, &found); err != nil || found.Dom != defined.Dom {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
		var auto libvirt.DomainGetAutostartRet
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainGetAutostart, &libvirt.DomainGetAutostartArgs{Dom: defined.Dom}, &auto); err != nil || auto.Autostart != 1 {
			t.Errorf("%s: autostart %+v, %v", name, auto, err)
		}
	}
	if out, err := p.end(t, syscall.SIGTERM); err != nil || !strings.Contains(out, "guests go on running") {
		t.Errorf("%v\n%s", err, out)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "sock")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSecondVirtdIsRefused(t *testing.T) {
	dir := shortDir(t)
	p := startVirtd(t, dir, nil)
	second := exec.Command(os.Args[0], "--session=false", "--state-dir", dir+"/state", "--run-dir", dir+"/run", "--log-dir", dir+"/log", "--socket-dir", dir+"/sock")
	second.Env = append(os.Environ(), "VIRTD_TEST_AS=virtd")
	out, err := second.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "another virtd runs with "+dir+"/run") {
		t.Errorf("%v: %s", err, out)
	}
	open(t, p.sock) // the first is unharmed
	p.end(t, syscall.SIGTERM)
}

// TestActivation: sockets from systemd are used, told apart by name, and left in place.
func TestActivation(t *testing.T) {
	dir := shortDir(t)
	var files []*os.File
	for _, name := range []string{"libvirt-sock", "libvirt-sock-ro"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		files = append(files, f)
	}
	p := startVirtd(t, dir, files)
	call := func(name string) error {
		return open(t, filepath.Join(dir, name)).Call(context.Background(), rpc.ProgramRemote, rpc.ProcDomainDefineXML, &libvirt.DomainDefineXMLArgs{XML: document}, nil)
	}
	if err := call("libvirt-sock"); err != nil {
		t.Error(err)
	}
	var re *rpc.RemoteError
	if err := call("libvirt-sock-ro"); !errors.As(err, &re) || re.Code != virterr.OperationDenied {
		t.Errorf("the read-only socket: %v", err)
	}
	if out, err := p.end(t, syscall.SIGTERM); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !exists(filepath.Join(dir, "libvirt-sock")) || exists(filepath.Join(dir, "sock")) {
		t.Error("systemd's socket is gone, or virtd made its own")
	}
}

// TestOtherUsers: the kernel's word on who connects decides, and the refusal says what to do.
func TestOtherUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to run clients as other users")
	}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "client")
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(self, b, 0o755); err != nil {
		t.Fatal(err)
	}
	p := startVirtd(t, dir, nil, "--socket-group", "daemon")
	for _, tt := range []struct {
		name   string
		groups []uint32
		socket string
		want   string
	}{
		{"member", []uint32{1}, "libvirt-sock", "Domain not found"},
		{"stranger", []uint32{2}, "libvirt-sock", "authentication failed: user with uid 4242 may not manage guests: not in group 'daemon' (usermod -aG daemon USER, then log in again); to look, connect read-only (virsh -r)"},
		{"stranger, read-only", nil, "libvirt-sock-ro", "operation forbidden: read only access prevents virDomainCreate"},
	} {
		cmd := exec.Command(self, filepath.Join(dir, "sock", tt.socket))
		cmd.Env = []string{"VIRTD_TEST_AS=client"}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242, Groups: tt.groups}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v, %s", tt.name, err, out)
		}
	}
	p.end(t, syscall.SIGTERM)
}
