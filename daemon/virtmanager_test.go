package daemon_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// virtManagerSettings are preferences: to edit XML, to poll everything every second, and to ask less.
const virtManagerSettings = `[org/virt-manager/virt-manager]
xmleditor-enabled=true

[org/virt-manager/virt-manager/stats]
enable-disk-poll=true
enable-net-poll=true
enable-memory-poll=true
update-interval=1

[org/virt-manager/virt-manager/confirm]
forcepoweroff=false
`

// TestVirtManager takes a tour through an unmodified virt-manager on a display of its own: testdata/python/virtmanager.py
// does what a person does, by the accessible names of what is on the screen, and testdata/virt-manager.txt is what it saw.
// Pictures go to the folder that SCREENSHOTS names.
func TestVirtManager(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	needClients(t)
	for program, pkg := range map[string]string{"virt-manager": "virt-manager", "Xvfb": "xvfb", "xdotool": "xdotool", "dbus-daemon": "dbus-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			lacks(t, pkg)
		}
	}
	b := newTestbed(t)
	b.writeXML(t)
	if err := os.MkdirAll(filepath.Join(b.dir, "xdg/glib-2.0/settings"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write(t, "xdg/glib-2.0/settings/keyfile", virtManagerSettings)
	env := append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir+"/xdg", "XDG_CACHE_HOME="+b.dir+"/xdg", "XDG_DATA_HOME="+b.dir+"/xdg",
		"XDG_RUNTIME_DIR="+b.dir+"/xdg", "GSETTINGS_BACKEND=keyfile", "GDK_BACKEND=x11", "LIBGL_ALWAYS_SOFTWARE=1", "PYTHONUNBUFFERED=1")
	display := announced(t, exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1280x900x24", "-nolisten", "tcp", "-noreset"))
	env = append(env, "DISPLAY=:"+display)
	bus := exec.Command("dbus-daemon", "--session", "--nofork", "--print-address=3", "--address=unix:path="+b.dir+"/bus")
	bus.Env = env // what it starts, such as the registry of accessible programs, wants the display
	env = append(env, "DBUS_SESSION_BUS_ADDRESS="+announced(t, bus))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	uri := "qemu:///system?socket="
	cmd := exec.CommandContext(ctx, interpreter, "testdata/python/virtmanager.py", uri+b.sock, uri+b.ro, b.dir)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out, errors strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errors
	if testing.Verbose() {
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stderr), io.MultiWriter(&errors, os.Stderr)
	}
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, errors.String())
	}
	b.expectFile(t, "testdata/virt-manager.txt", out.String())
}

// expectFile compares what a program printed with a file, or writes that.
func (b *testbed) expectFile(t *testing.T, path, got string) {
	t.Helper()
	got = strings.ReplaceAll(got, b.dir, "$DIR")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !matches(string(want), got) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// announced starts a program that writes a line to descriptor 3 when it is ready, and returns that.
func announced(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.ExtraFiles = []*os.File{w}
	start(t, cmd)
	w.Close()
	r.SetReadDeadline(time.Now().Add(time.Minute))
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", filepath.Base(cmd.Path), err)
	}
	return strings.TrimSpace(line)
}
