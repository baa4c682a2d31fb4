package daemon_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLibvirtDBus runs an unmodified libvirt-dbus on a bus of its own, and a program that uses its objects as cockpit does.
// testdata/dbus.txt is what that prints.
func TestLibvirtDBus(t *testing.T) {
	needClients(t)
	bus := unpacked(t, "bookworm", "dbus-daemon")
	program := unpacked(t, "bookworm", "libvirt-dbus")
	tree := filepath.Join(filepath.Dir(bus), "../..")
	b := newTestbed(t)
	b.writeXML(t)
	address := "unix:path=" + filepath.Join(b.dir, "bus")
	start(t, exec.Command(bus, "--config-file="+filepath.Join(tree, "usr/share/dbus-1/session.conf"), "--nofork", "--address="+address))
	service := exec.Command("unshare", b.inItsRun(t, program, "--system")...)
	service.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+address, "VIRT_DBUS_INTERFACES_DIR="+filepath.Join(tree, "usr/share/dbus-1/interfaces"))
	start(t, service)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, interpreter, "testdata/python/dbus.py", address, b.dir).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	b.expectFile(t, "testdata/dbus.txt", string(out))
}

// inItsRun returns the arguments with which unshare(1) runs a program that cannot be told where the sockets are: in a mount
// namespace where /run/libvirt, and nothing else in /run, is the testbed's directory.
func (b *testbed) inItsRun(t *testing.T, program string, args ...string) []string {
	t.Helper()
	script := `mount -t tmpfs run /run && mkdir /run/libvirt && mount --bind "$0" /run/libvirt && exec "$@"`
	namespace := []string{"--mount"}
	if os.Geteuid() != 0 {
		namespace = append(namespace, "--map-root-user")
	}
	if out, err := exec.Command("unshare", append(namespace, "sh", "-c", script, b.dir, "true")...).CombinedOutput(); err != nil {
		lacks(t, "mount namespaces: "+string(out))
	}
	return append(append(namespace, "sh", "-c", script, b.dir, program), args...)
}

// start runs a program in the background until the test ends, and shows what it said when the test failed.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() && log.Len() > 0 {
			t.Logf("%s: %s", filepath.Base(cmd.Path), log.String())
		}
	})
}
