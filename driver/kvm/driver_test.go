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

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"virtd/domain/manager"
	"virtd/domain/store"
	"virtd/driver/kvm"
	"virtd/network/bridge"
	"virtd/virterr"
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

func (noLinks) OpenVhostNet(int) ([]*os.File, error) { return nil, errors.New("no vhost") }

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
		for _, g := range h.cgroups("") {
			os.Remove(g)
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
	h.m, err = manager.New(manager.Config{Driver: drv, Store: st, Log: log})
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
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p)); err == nil && strings.Contains(cwd, "kvm.test") {
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

// cgroups lists this host's cgroups: the parent, and what below it matches.
func (h *host) cgroups(pattern string) []string {
	name := fmt.Sprintf("virtd-engines-%08x", crc32.ChecksumIEEE([]byte(filepath.Join(h.dir, "run"))))
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

func TestStartTalkDestroy(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	h.waitState(d, manager.Running, manager.RunningBooted)
	who, err := d.Monitor(bg, "whoami", true)
	want := fmt.Sprintf("uid %d pid %d core 0", os.Getuid(), h.pid(d))
	if os.Getuid() == 0 {
		want = "uid 2000000 pid 1 core 0"
	}
	if err != nil || who != want {
		t.Errorf("%q %v, want %q", who, err, want)
	}
	xml, err := d.XML(0)
	if err != nil || !strings.Contains(xml, "<source path='/dev/pts/") || !strings.Contains(xml, "<target dev='vnet7'/>") {
		t.Error(xml, err)
	}
	if err := d.SetMemory(bg, 32<<10, 0); err != nil {
		t.Error(err)
	}
	stats, err := d.MemoryStats(bg)
	if err != nil || stats[0].Value != 32<<10 || stats[1].Value != 1024 {
		t.Error(stats, err)
	}
	if s, err := d.BlockStats(bg, "vda"); err != nil || s.ReadBytes != 512 || s.Capacity != 1<<20 {
		t.Error(s, err)
	}
	if s, err := d.InterfaceStats(bg, "vnet7"); err != nil || s.RxBytes != 5 {
		t.Error(s, err)
	}
	if err := d.PinVCPU(bg, 0, []byte{1}, manager.AffectLive); err != nil {
		t.Error(err)
	}
	if v, err := d.VCPUs(bg); err != nil || len(v) != 1 || v[0].Affinity[0] != 1 {
		t.Error(v, err)
	}
	if out, err := d.Monitor(bg, `{"execute":"query-nothing"}`, false); err != nil || !strings.Contains(out, "CommandNotFound") {
		t.Error(out, err)
	}
	h.talk(d)
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	if left := h.leftovers(); len(left) != 0 {
		t.Error("left over:", left)
	}
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

func TestGuestsOutliveVirtd(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	ref, pid := d.Ref(), h.pid(d)
	before, err := d.XML(0)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		h.m.Close()
		h.open()
		if d, err = h.m.LookupByID(ref.ID); err != nil {
			t.Fatal(err)
		}
		if d.Ref() != ref || h.pid(d) != pid {
			t.Fatalf("round %d: %+v pid %d, was %+v pid %d", round, d.Ref(), h.pid(d), ref, pid)
		}
	}
	h.waitState(d, manager.Running, manager.RunningBooted)
	if after, err := d.XML(0); err != nil || after != before {
		t.Error(cmp.Diff(before, after), err)
	}
	h.talk(d)
	h.events = nil
	if err := d.Suspend(bg); err != nil {
		t.Fatal(err)
	}
	h.m.Close()
	h.open()
	d, _ = h.m.LookupByName("a")
	h.waitState(d, manager.Paused, manager.PausedUser)
	if err := d.Resume(bg); err != nil {
		t.Fatal(err)
	}
	if err := d.Shutdown(bg, 0); err != nil {
		t.Fatal(err)
	}
	h.waitState(d, manager.ShutOff, manager.ShutOffShutdown)
	h.m.Close()
	if diff := cmp.Diff([]string{"3,0", "4,0", "6,1", "5,0"}, h.events); diff != "" {
		t.Error(diff)
	}
	h.open()
	if left := h.leftovers(); len(left) != 0 {
		t.Error("left over:", left)
	}
}

func TestDeathWhileVirtdIsAway(t *testing.T) {
	for _, c := range []struct {
		how    string
		do     func(pid int, monitor string) error
		reason manager.Reason
		says   string
	}{
		{"killed", func(pid int, _ string) error { return unix.Kill(pid, unix.SIGKILL) }, manager.ShutOffCrashed, "crashed: the engine left no exit record"},
		{"powered off", func(_ int, m string) error { return say(m, `{"execute":"system_powerdown"}`) }, manager.ShutOffShutdown, "shutdown"},
		{"panicked", func(_ int, m string) error {
			return say(m, `{"execute":"human-monitor-command","arguments":{"command-line":"panic"}}`)
		}, manager.ShutOffCrashed, "panic: guest panic"},
	} {
		t.Run(c.how, func(t *testing.T) {
			h := newHost(t)
			d := h.start("a")
			pid := h.pid(d)
			monitor := filepath.Join(h.dir, "run", d.UUID().String(), "monitor.sock")
			h.m.Close()
			if err := c.do(pid, monitor); err != nil {
				t.Fatal(err)
			}
			for range 1000 {
				if len(h.engines()) == 0 {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			h.open()
			d, err := h.m.LookupByName("a")
			if err != nil {
				t.Fatal(err)
			}
			h.waitState(d, manager.ShutOff, c.reason)
			if info := d.Info(); !strings.HasPrefix(info.LastExit, c.says) || info.ID != -1 {
				t.Errorf("%+v", info)
			}
			if left := h.leftovers(); len(left) != 0 {
				t.Error("left over:", left)
			}
		})
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

func TestEngineDiesUnderVirtd(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	if err := unix.Kill(h.pid(d), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.waitState(d, manager.ShutOff, manager.ShutOffCrashed)
	if info := d.Info(); !strings.Contains(info.LastExit, "signal: killed") {
		t.Error(info.LastExit)
	}
	if err := d.Start(bg, 0); err != nil {
		t.Fatal(err)
	}
	if left, _ := d.State(); left != manager.Running {
		t.Fatal(left)
	}
}

func TestLostMonitorIsReopened(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	_, _ = d.Monitor(bg, "drop", true)
	var err error
	for range 1000 {
		if _, err = d.Monitor(bg, "info", true); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Suspend(bg); err != nil {
		t.Fatal(err)
	}
	h.waitState(d, manager.Paused, manager.PausedUser)
}

func TestRebootKeepsTheProcess(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	pid := h.pid(d)
	if err := d.Reboot(bg, 0); err != nil {
		t.Fatal(err)
	}
	h.waitState(d, manager.Running, manager.RunningUnpaused)
	if h.pid(d) != pid {
		t.Error("another process")
	}
}

func TestFailedStartsLeaveNothing(t *testing.T) {
	h := newHost(t)
	noKernel := strings.Replace(h.xml("a", ""), "/vmlinuz", "/no/such/vmlinuz", 1)
	if err := os.Mkdir(filepath.Join(h.dir, "odd"), 0o700); err != nil {
		t.Fatal(err)
	}
	dirDisk := strings.Replace(h.xml("a", ""), "/disk.raw", "/odd", 1)
	big := strings.Replace(h.xml("a", ""), "<memory unit='MiB'>64", "<memory unit='TiB'>64", 1)
	huge := strings.Replace(h.xml("a", ""), "<vcpu>", "<memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking><vcpu>", 1)
	huge = strings.Replace(huge, "<memory unit='MiB'>64", "<memory unit='GiB'>900", 1)
	for _, c := range []struct {
		what, xml string
		code      virterr.Code
		says      []string
	}{
		{"no kernel", noKernel, virterr.SystemError, []string{"Cannot access kernel '" + h.dir + "/no/such/vmlinuz'", "No such file or directory", "directory '" + h.dir + "/no' does not exist"}},
		{"a directory for a disk", dirDisk, virterr.SystemError, []string{"Is a directory"}},
		{"too much memory", big, virterr.NoMemory, []string{"64", "MiB"}},
		{"no huge pages", huge, virterr.NoMemory, []string{"huge pages of 2048 KiB", "nr_hugepages"}},
		{"engine refuses", h.xml("a", "<cmdline>fail</cmdline>"), virterr.InternalError, []string{"the kernel is no kernel"}},
		{"engine crashes", h.xml("a", "<cmdline>die</cmdline>"), virterr.InternalError, []string{"panic: something is wrong"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := h.m.CreateXML(bg, c.xml, 0)
			if !virterr.Is(err, c.code) {
				t.Fatalf("%d %v, want code %d", virterr.As(err).Code, err, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			if left := h.leftovers(); len(left) != 0 {
				t.Error("left over:", left)
			}
			if len(h.m.List(0)) != 0 {
				t.Error("the domain is still there")
			}
		})
	}
}

func TestImageInUseNamesTheDomain(t *testing.T) {
	h := newHost(t)
	h.start("a")
	_, err := h.m.CreateXML(bg, h.xml("b", ""), 0)
	if !virterr.Is(err, virterr.ResourceBusy) || !strings.Contains(err.Error(), "in use by domain 'a'") {
		t.Fatal(err)
	}
	h.m.Close()
	h.open() // the next virtd knows it too
	_, err = h.m.CreateXML(bg, h.xml("b", ""), 0)
	if !virterr.Is(err, virterr.ResourceBusy) || !strings.Contains(err.Error(), "in use by domain 'a'") {
		t.Fatal(err)
	}
}

func TestUnreadableDirectoryIsNamed(t *testing.T) {
	h := newHost(t)
	if os.Getuid() != 0 {
		t.Skip("needs root to take up another uid for one thread")
	}
	secret := filepath.Join(h.dir, "secret")
	if err := errors.Join(os.Mkdir(secret, 0o700), os.Chmod(h.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() { // on a thread that ends with the goroutine, with another uid for files
		lockedThreadAs(54321)
		got <- kvm.OpenKernelForTest(filepath.Join(secret, "vmlinuz"))
	}()
	if err := <-got; err == nil || !strings.Contains(err.Error(), "no search permission (x) on directory '"+secret+"', mode 0700") {
		t.Fatal(err)
	}
}

func TestCyclesLeaveNothing(t *testing.T) {
	h := newHost(t)
	cycles := 40
	if testing.Short() {
		cycles = 5
	}
	d := h.start("a")
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	before := countFDs(t)
	for range cycles {
		if err := d.Start(bg, 0); err != nil {
			t.Fatal(err)
		}
		if err := d.Destroy(bg, 0); err != nil {
			t.Fatal(err)
		}
	}
	if left := h.leftovers(); len(left) != 0 {
		t.Error("left over:", left)
	}
	if after := countFDs(t); after > before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestStartCutShort ends virtd between the engine's birth and its configuration, at every step that leaves a trace.
func TestStartCutShort(t *testing.T) {
	h := newHost(t)
	d, err := h.m.Define(bg, h.xml("a", ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(h.dir, "run", d.UUID().String())
	for _, recorded := range []bool{false, true} {
		h.m.Close()
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var groups []string
		for _, g := range h.cgroups("") {
			groups = append(groups, filepath.Join(g, d.UUID().String()))
			if err := os.Mkdir(groups[0], 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if recorded {
			status := store.Status{Version: 1, UUID: d.UUID(), ID: 7, PID: 1 << 22, LiveXML: h.xml("a", ""), State: 3, Reason: 11,
				Driver: []byte(`{"version":1,"pid":4194304,"startTime":1,"uid":-1,"dir":"` + dir + `"}`)}
			boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
			if err != nil {
				t.Fatal(err)
			}
			status.BootID = strings.TrimSpace(string(boot))
			st, err := store.Open(store.Options{State: filepath.Join(h.dir, "etc"), Run: filepath.Join(h.dir, "status")})
			if err == nil {
				err = st.SaveStatus(status)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		h.open()
		d, err = h.m.LookupByName("a")
		if err != nil || d.Active() {
			t.Fatal(err)
		}
		if left := h.leftovers(); len(left) != 0 {
			t.Errorf("recorded=%v left over: %v", recorded, left)
		}
	}
	if err := d.Start(bg, 0); err != nil {
		t.Fatal(err)
	}
}
