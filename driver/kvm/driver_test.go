package kvm_test

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"virtd/domain/manager"
	"virtd/domain/store"
	"virtd/driver/kvm"
	"virtd/virterr"
)

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
	if err := d.PinEmulator(bg, []byte{1}, manager.AffectLive); err != nil {
		t.Error(err)
	}
	h.checkThreads(d)
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
		if os.Getuid() == 0 { // as a start does: the cgroup before the process
			for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
				if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
					continue
				}
				if err := os.MkdirAll(filepath.Join(root, h.cgroupParent(), d.UUID().String()), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if len(h.leftovers()) < 2 {
				t.Fatal("nothing to tidy")
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
				err = errors.Join(st.SaveStatus(status), st.Close())
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

// checkThreads: after emulatorpin to CPU 0 all of an engine's threads are bound there but for the vCPU's.
func (h *host) checkThreads(d *manager.Domain) {
	t := h.t
	t.Helper()
	vcpus, err := d.VCPUs(bg)
	if err != nil || len(vcpus) != 1 {
		t.Fatalf("%+v, %v", vcpus, err)
	}
	if !has(t, d, "<emulatorpin cpuset='0'/>") {
		t.Error("the pin is not shown")
	}
	if all := bits.OnesCount8(vcpus[0].Affinity[0]); all != min(runtime.NumCPU(), 8) {
		t.Errorf("the vCPU was bound to %d CPUs, too", all)
	}
	statuses, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", h.pid(d)))
	if err != nil || len(statuses) < 2 {
		t.Fatalf("threads %v, %v", statuses, err)
	}
	free := 0
	for _, name := range statuses {
		text, err := os.ReadFile(name)
		if err == nil && !strings.Contains(string(text), "Cpus_allowed_list:\t0\n") {
			free++
		}
	}
	if free > 1 {
		t.Errorf("%d threads may run elsewhere", free)
	}
}
