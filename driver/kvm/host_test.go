package kvm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/domain/manager"
	"virtd/domain/store"
	"virtd/driver/kvm"
	"virtd/network/bridge"
	"virtd/network/portconf"
)

var bg = context.Background()

// noLinks hands out null devices for taps and remembers nothing.
type noLinks struct{}

func (noLinks) OpenTap(c bridge.TapConfig) (*bridge.Tap, error) {
	t := &bridge.Tap{Name: "vnet7"}
	for range c.Queues {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		t.Files = append(t.Files, f)
	}
	return t, nil
}

func (noLinks) OpenVhostNet(string, int) ([]*os.File, error) { return nil, errors.New("no vhost") }

func (noLinks) OpenMacvtap(bridge.MacvtapConfig) (*bridge.Tap, error) {
	return nil, errors.New("no macvtap")
}

func (noLinks) DeleteMacvtap(string, int, []byte) error { return nil }

func (noLinks) ApplyRxFilter(string, bridge.RxFilter) error { return nil }

func (noLinks) Link(string) (bridge.Link, error) { return bridge.Link{}, nil }

func (noLinks) Attach(string, string) error { return nil }

func (noLinks) Isolate(string, bool) error { return nil }

func (noLinks) SetCoalesce(string, uint32) error { return nil }

func (noLinks) SetVLAN(string, string, portconf.VLAN) error { return nil }

func (noLinks) SetBandwidth(string, portconf.Bandwidth) error { return nil }

func (noLinks) GuestStats(string) (bridge.Stats, error) { return bridge.Stats{RxBytes: 5}, nil }

// host is a directory with everything a virtd of tests has, and the manager of the moment.
type host struct {
	t      *testing.T
	dir    string
	engine string
	log    bytes.Buffer
	m      *manager.Manager
	mu     sync.Mutex
	events []string
}

func newHost(t *testing.T) *host {
	t.Helper()
	return newHostWith(t, os.Args[0])
}

// newHostWith is newHost with another engine.
func newHostWith(t *testing.T, engine string) *host {
	t.Helper()
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		t.Skip("needs /dev/kvm, which every engine is given: ", err)
	} else {
		f.Close()
	}
	dir, err := os.MkdirTemp("", "virtd-kvm-test") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, engine: engine}
	for name, size := range map[string]int{"vmlinuz": 64, "disk.raw": 1 << 20} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.open()
	t.Cleanup(func() {
		for _, d := range h.m.List(manager.ListActive) {
			if err := d.Destroy(bg, 0); err != nil {
				t.Error(err)
			}
		}
		h.m.Close()
		os.RemoveAll(dir)
		if g := h.cgroups(""); len(g) != 0 {
			t.Error("left over:", g)
		}
		if t.Failed() {
			t.Log(h.log.String())
		}
	})
	return h
}

func (h *host) open() {
	h.t.Helper()
	log := slog.New(slog.NewTextHandler(&h.log, nil))
	st, err := store.Open(store.Options{State: filepath.Join(h.dir, "etc"), Run: filepath.Join(h.dir, "status")})
	if err != nil {
		h.t.Fatal(err)
	}
	drv, err := kvm.New(kvm.Config{
		Engine: h.engine, RunDir: filepath.Join(h.dir, "run"), LogDir: filepath.Join(h.dir, "log"), Links: noLinks{}, Log: log,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.m, err = manager.New(manager.Config{Driver: drv, Store: st, Log: log, SaveDir: filepath.Join(h.dir, "save")})
	if err != nil {
		h.t.Fatal(err)
	}
	h.m.Subscribe(func(e manager.Event) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if e.Kind == manager.EventLifecycle {
			h.events = append(h.events, fmt.Sprintf("%d,%d", e.Type, e.Detail))
		}
	})
	if err := h.m.Open(bg); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) xml(name, more string) string {
	return fmt.Sprintf(`<domain type='kvm'><name>%[1]s</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>%[2]s/vmlinuz</kernel>%[3]s</os>
  <features><acpi/><apic/></features>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%[2]s/disk.raw'/><target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/><driver name='qemu'/></interface>
    <serial type='pty'><log file='%[2]s/console.log' append='on'/></serial>
  </devices></domain>`, name, h.dir, more)
}

func (h *host) start(name string) *manager.Domain {
	h.t.Helper()
	d, err := h.m.Define(bg, h.xml(name, ""), 0)
	if err == nil {
		err = d.Start(bg, 0)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *host) waitState(d *manager.Domain, state manager.State, reason manager.Reason) {
	h.t.Helper()
	var s manager.State
	var r manager.Reason
	for range 1000 {
		if s, r = d.State(); s == state && r == reason {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	h.t.Fatalf("state %s/%d, want %s/%d", s, r, state, reason)
}

// pid returns the engine's process id, from its record.
func (h *host) pid(d *manager.Domain) int {
	h.t.Helper()
	for _, p := range h.engines() {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p)); err == nil && filepath.Base(exe) == filepath.Base(h.engine) {
			return p
		}
	}
	h.t.Fatal("no engine process")
	return 0
}

// engines returns the processes of this host's engines, which share its disk.
func (h *host) engines() []int {
	var pids []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		for _, fd := range fds {
			if target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); strings.HasPrefix(target, h.dir+"/vmlinuz") {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// cgroupParent is the name of the cgroup that this host's engines are under.
func (h *host) cgroupParent() string {
	return fmt.Sprintf("virtd-engines-%08x", crc32.ChecksumIEEE([]byte(filepath.Join(h.dir, "run"))))
}

// cgroups lists this host's cgroups: the parent, and what below it matches.
func (h *host) cgroups(pattern string) []string {
	name := h.cgroupParent()
	hybrid, _ := filepath.Glob("/sys/fs/cgroup/unified/" + name + pattern)
	unified, _ := filepath.Glob("/sys/fs/cgroup/" + name + pattern)
	return append(hybrid, unified...)
}

// leftovers lists what a host without running domains must not have.
func (h *host) leftovers() []string {
	var found []string
	for _, dir := range []string{"run", "status"} {
		entries, _ := os.ReadDir(filepath.Join(h.dir, dir))
		for _, e := range entries {
			text, _ := os.ReadFile(filepath.Join(h.dir, dir, e.Name()))
			if !strings.Contains(string(text), `"lastExit"`) { // says why a domain is off, which is to stay
				found = append(found, dir+"/"+e.Name())
			}
		}
	}
	for _, p := range h.engines() {
		found = append(found, fmt.Sprint("process ", p))
	}
	return append(found, h.cgroups("/*-*")...)
}

// talk types on the console and waits for the echo.
func (h *host) talk(d *manager.Domain) {
	h.t.Helper()
	c, err := d.OpenConsole("", 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello\r")); err != nil {
		h.t.Fatal(err)
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello\r" {
		h.t.Errorf("%q %v", got, err)
	}
}

// say sends one command to a monitor as some other client would.
func say(monitor, command string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: monitor}); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), monitor)
	defer f.Close()
	fmt.Fprintln(f, `{"execute":"qmp_capabilities","id":1}`)
	fmt.Fprintln(f, strings.TrimSuffix(command, "}")+`,"id":2}`)
	_, err = io.ReadAll(f) // until the engine leaves
	if errors.Is(err, unix.ECONNRESET) {
		err = nil
	}
	return err
}

func countFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
