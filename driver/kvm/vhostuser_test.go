package kvm_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/driver/kvm"
	"virtd/virterr"
)

func vhostUserDisk(path, more string) string {
	return fmt.Sprintf("<disk type='vhostuser'><source type='unix' path='%s'>%s</source><target dev='vdb'/></disk>", path, more)
}

func vhostUserServer(path string) string {
	return fmt.Sprintf("<interface type='vhostuser'><source type='unix' path='%s' mode='server'/></interface>", path)
}

// with puts devices into the document of the tests.
func (h *host) with(name, devices string) string {
	return strings.Replace(h.xml(name, ""), "<devices>", "<devices>"+devices, 1)
}

func serveAt(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// next is the next connection of a process that serves a device.
func next(t *testing.T, l *net.UnixListener) *net.UnixConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(30 * time.Second))
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestVhostUserClient: virtd connects to the process that serves a disk, and again when it was replaced, also while virtd was
// away.
func TestVhostUserClient(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(h.dir, "blk.sock")
	l := serveAt(t, path)
	d, err := h.m.CreateXML(bg, h.with("a", vhostUserDisk(path, "<reconnect enabled='yes' timeout='1'/>")), 0)
	if err != nil {
		t.Fatal(err)
	}
	c := next(t, l)
	l.Close() // and its file is gone, as after a kill and a removal
	c.Close()
	l = serveAt(t, path)
	next(t, l).Close()
	if _, err := d.BlockStats(bg, "vdb"); !virterr.Is(err, virterr.OperationUnsupported) {
		t.Errorf("counters that nobody has: %v", err)
	}
	h.m.Close()
	h.open()
	if d, err = h.m.LookupByName("a"); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
}

// TestVhostUserServer: the process connects to a socket of virtd's, which goes with the domain.
func TestVhostUserServer(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(h.dir, "net.sock")
	go func() {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if c, err := net.Dial("unix", path); err == nil {
				defer c.Close()
				time.Sleep(time.Second)
				return
			}
		}
	}()
	d, err := h.m.CreateXML(bg, h.with("a", vhostUserServer(path)), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the socket is gone while the domain runs")
	}
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket stays")
	}
}

// TestVhostUserMissing: a process that is not there stops the start, says where it was looked for, and leaves nothing.
func TestVhostUserMissing(t *testing.T) {
	defer kvm.SetVhostUserWait(300 * time.Millisecond)()
	h := newHost(t)
	path := filepath.Join(h.dir, "s")
	for devices, says := range map[string]string{
		vhostUserServer(path):                             "no vhost-user process connected to '" + path + "'",
		vhostUserDisk(path, ""):                           "Failed to connect socket to '" + path + "'",
		vhostUserDisk(path, "<reconnect enabled='yes'/>"): "Failed to connect socket to '" + path + "'",
	} {
		_, err := h.m.CreateXML(bg, h.with("a", devices), 0)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket stays")
		}
		if left := h.leftovers(); len(left) != 0 {
			t.Error("left over:", left)
		}
	}
	private := strings.Replace(h.with("a", vhostUserServer(path)), "<vcpu>", "<memoryBacking><access mode='private'/></memoryBacking><vcpu>", 1)
	if _, err := h.m.CreateXML(bg, private, 0); !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "requires shared memory") {
		t.Errorf("private memory: %v", err)
	}
}
