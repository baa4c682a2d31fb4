package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"virtd/daemon"
	"virtd/daemon/nodeinfo"
	"virtd/domain/manager"
	"virtd/domain/store"
	"virtd/driver"
	"virtd/driver/fake"
	"virtd/hostcheck"
	"virtd/network"
	"virtd/network/networktest"
	"virtd/nodedev"
	"virtd/nodedev/nodedevtest"
	"virtd/rpc"
	"virtd/storage"
)

// bed is a daemon over engines in memory, and the vctl that talks to it.
type bed struct {
	t      *testing.T
	socket string
	driver *fake.Driver
	dir    string
	server *rpc.Server

	nets    *network.Manager
	netHost *networktest.Fake
	bridges fakeBridges
	devices *nodedev.Manager
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, driver: &fake.Driver{}, dir: t.TempDir()}
	b.socket = filepath.Join(b.dir, "sock")
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(store.Options{State: filepath.Join(b.dir, "state"), Run: filepath.Join(b.dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	b.netHost = &networktest.Fake{}
	nets, err := network.Open(network.Config{State: filepath.Join(b.dir, "state/networks"), Run: filepath.Join(b.dir, "run/networks"), Host: b.netHost, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	b.nets = nets
	mgr, err := manager.New(manager.Config{Driver: b.driver, Store: st, Networks: nets, Log: log, QuitTimeout: time.Second,
		SaveDir: filepath.Join(b.dir, "save")})
	if err != nil {
		t.Fatal(err)
	}
	if err := mgr.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	host := fstest.MapFS{"proc/sys/kernel/hostname": {Data: []byte("testhost\n")}}
	sys := nodedevtest.Load(t, "../../nodedev/testdata/host.tree")
	kernel := &nodedevtest.Kernel{Root: sys}
	devices, err := nodedev.Open(nodedev.Config{Sys: sys, Log: log, State: filepath.Join(b.dir, "state/mdevs"), Proc: filepath.Join(b.dir, "proc"),
		Dev: filepath.Join(b.dir, "dev"), Write: kernel.Write})
	if err != nil {
		t.Fatal(err)
	}
	b.devices = devices
	pools, err := storage.Open(storage.Config{State: filepath.Join(b.dir, "state/storage"), Run: filepath.Join(b.dir, "run/storage"), Log: log,
		Host: b.storageHost()})
	if err != nil {
		t.Fatal(err)
	}
	d := daemon.New(daemon.Config{Manager: mgr, Storage: pools, Networks: nets, Devices: devices, Hostdevs: b.hostdevs(sys), Node: &nodeinfo.Node{FS: host}, CPU: b.driver, Log: log, Bridges: &b.bridges, Links: testLinks,
		HostCheck: func(context.Context) hostcheck.Report {
			return hostcheck.Report{Findings: []hostcheck.Finding{{Name: "kvm", Status: hostcheck.Fail, Detail: "no /dev/kvm", Fix: "modprobe kvm_amd"}}}
		}})
	reg := rpc.NewRegistry()
	d.Register(reg)
	server := rpc.NewServer(reg, rpc.Options{Logger: log, AuthFailureDelay: -1})
	b.server = server
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l, rpc.Policy{}) // ends with Shutdown
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		d.Close()
		devices.Close()
		pools.Close()
		nets.Close()
		mgr.Close()
	})
	return b
}

// run executes one vctl command line with stdin.
func (b *bed) run(stdin string, args ...string) (stdout, stderr string, status int) {
	b.t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	status = run(ctx, append([]string{"vctl", "-c", "qemu:///system?socket=" + b.socket}, args...), strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), status
}

// line is a command line, its exit status, and what it prints (a pattern): on standard error when the status is 1.
type line struct {
	line   string
	status int
	prints string
}

// day runs command lines one after the other.
func (b *bed) day(lines []line) {
	b.t.Helper()
	for _, c := range lines {
		stdout, stderr, status := b.run("", strings.Fields(c.line)...)
		got := stdout
		if c.status != 0 {
			got = stderr
		}
		if status != c.status || !regexp.MustCompile(c.prints).MatchString(got) {
			b.t.Errorf("vctl %s: status %d, want %d and %q\nstdout: %s\nstderr: %s", c.line, status, c.status, c.prints, stdout, stderr)
		}
	}
}

const testDomain = `<domain type='kvm'><name>demo</name><uuid>6b1a2f4e-0000-4000-8000-0123456789ab</uuid>
<memory unit='MiB'>512</memory><vcpu current='1'>2</vcpu><os><type machine='q35'>hvm</type><kernel>/boot/vmlinuz</kernel></os>
<features><acpi/></features><devices><console type='pty'/></devices></domain>`

// TestCommands is one day of a domain: each line is a command, its exit status, and what it prints (a pattern).
func TestCommands(t *testing.T) {
	b := newBed(t)
	t.Chdir(b.dir) // where files go that commands name
	xml := filepath.Join(b.dir, "demo.xml")
	if err := os.WriteFile(xml, []byte(testDomain), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line   string
		status int
		prints string // on standard output, or standard error when the status is 1
	}{
		{"list --all", 0, `^ Id   Name   State\n-+\n$`},
		{"define " + xml, 0, `^Domain 'demo' defined from .*demo.xml\n$`},
		{"define /does/not/exist", 1, `no such file`},
		{"define", 1, `requires <file>`},
		{"list --all", 0, `\n -    demo   shut off\n$`},
		{"list", 0, `-\n$`},
		{"list --all --name", 0, `^demo\n$`},
		{"list --inactive --uuid", 0, `^6b1a2f4e-0000-4000-8000-0123456789ab\n$`},
		{"domstate demo", 0, `^shut off\n$`},
		{"dominfo nobody", 1, `^error: failed to get domain 'nobody': Domain not found: no domain with matching name 'nobody'`},
		{"suspend demo", 1, `^error: failed to suspend domain 'demo': .*domain is not running`},
		{"autostart demo", 0, `marked as autostarted`},
		{"dominfo demo", 0, `Autostart: +enable`},
		{"autostart demo --disable", 0, `unmarked`},
		{"setvcpus demo 2", 0, `has 2 vCPUs`},
		{"setvcpus demo 3 --config", 1, `^error: failed to set the vCPUs of domain 'demo'`},
		{"setvcpus demo none", 1, `invalid number of virtual CPUs`},
		{"start demo", 0, `^Domain 'demo' started\n$`},
		{"start demo", 1, `^error: failed to start domain 'demo': .*domain is already running`},
		{"domstate --reason demo", 0, `^running \(booted\)\n$`},
		{"domstate 6b1a2f4e-0000-4000-8000-0123456789ab --reason", 0, `^running \(booted\)\n$`},
		{"domstate 1", 0, `^running\n$`},
		{"suspend demo", 0, `suspended`},
		{"domstate demo --reason", 0, `^paused \(user\)\n$`},
		{"resume demo", 0, `resumed`},
		{"reset demo", 0, `was reset`},
		{"balloon demo 500", 1, `has no unit; write 500MiB`},
		{"balloon demo 1TiB", 1, `^error: failed to set the balloon of domain 'demo'`},
		{"balloon demo 300MiB --timeout 20s", 0, `^Domain 'demo' has 300 MiB\n$`},
		{"balloon demo", 0, `^Actual: +300 MiB\nMaximum: +512 MiB\n`},
		{"domstats demo", 0, `^Domain: 'demo'\n(  .*\n)*  balloon.current=307200\n`},
		{"dump demo core", 0, `^Domain 'demo' dumped to core\n$`},
		{"dump demo", 1, `requires <file>`},
		{"save demo image --running --paused", 1, `exclude each other`},
		{"save demo image --paused", 0, `^Domain 'demo' saved to image\n$`},
		{"domstate demo --reason", 0, `^shut off \(saved\)\n$`},
		{"save demo image", 1, `^error: failed to save domain 'demo' to image: .*domain is not running`},
		{"restore image", 0, `^Domain restored from image\n$`},
		{"domstate demo --reason", 0, `^paused \(user\)\n$`},
		{"restore image", 1, `^error: failed to restore domain from image: .*domain 'demo' is already active`},
		{"managedsave demo --running", 0, `^Domain 'demo' saved; its next start goes on from there\n$`},
		{"undefine demo", 1, `Refusing to undefine while domain managed save image exists`},
		{"start demo", 0, `started`},
		{"domstate demo --reason", 0, `^running \(restored\)\n$`},
		{"managedsave demo", 0, `saved`},
		{"managedsave-remove demo", 0, `is discarded`},
		{"managedsave-remove demo", 1, `^error: failed to discard the saved state of domain 'demo'`},
		{"start demo --force-boot", 0, `started`},
		{"dumpxml demo", 0, `<domain type='kvm' id='[0-9]+'>`},
		{"dumpxml demo --inactive", 0, `<domain type='kvm'>`},
		{"undefine demo", 0, `has been undefined`},
		{"destroy demo", 0, `^Domain 'demo' destroyed\n$`},
		{"list --all", 0, `-\n$`},
		{"version", 0, `(?s)vctl: .*Library: +libvirt .*Hypervisor: +QEMU .*Host: +testhost`},
		{"host-check", 1, `^$`},
		{"nonsense", 1, `^error: unknown command: 'nonsense'`},
		{"list --nonsense", 1, `^error: command 'list' doesn't support option --nonsense; see vctl list --help\n$`},
		{"-o yaml list", 1, `use text or json`},
		{"completion bash", 0, `complete .* vctl`},
		{"completion csh", 1, `no completion for shell 'csh'`},
	} {
		stdout, stderr, status := b.run("", strings.Fields(c.line)...)
		got := stdout
		if c.status != 0 {
			got = stderr
		}
		if status != c.status || !regexp.MustCompile(c.prints).MatchString(got) {
			t.Errorf("vctl %s: status %d, want %d and %q\nstdout: %s\nstderr: %s", c.line, status, c.status, c.prints, stdout, stderr)
		}
	}
}

func TestJSON(t *testing.T) {
	b := newBed(t)
	b.run(testDomain, "define", "-")
	b.run("", "start", "demo")
	for _, c := range []struct {
		line string
		want map[string]any
	}{
		{"-o json dominfo demo", map[string]any{"name": "demo", "state": "running", "persistent": true, "maxMemoryKiB": 524288.0}},
		{"-o json domstate demo", map[string]any{"state": "running", "reason": "booted"}},
		{"-o json balloon demo", map[string]any{"actual": 524288.0, "maximumKiB": 524288.0}},
		{"-o json suspend demo", map[string]any{"result": "Domain 'demo' suspended"}},
	} {
		out, stderr, status := b.run("", strings.Fields(c.line)...)
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 {
			t.Fatalf("vctl %s: %d %v\n%s%s", c.line, status, err, out, stderr)
		}
		for k, v := range c.want {
			if got[k] != v {
				t.Errorf("vctl %s: %s is %v, want %v", c.line, k, got[k], v)
			}
		}
	}
	out, _, _ := b.run("", "-o", "json", "list", "--all")
	var rows []listed
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 1 || rows[0].State != "paused" || !rows[0].Persistent {
		t.Errorf("list: %v %+v", err, rows)
	}
	var checks []checked
	out, _, status := b.run("", "-o", "json", "host-check")
	if err := json.Unmarshal([]byte(out), &checks); err != nil || status != 1 || checks[0].Remedy != "modprobe kvm_amd" {
		t.Errorf("host-check: %d %v %s", status, err, out)
	}
}

// A measurement is waited for, and its end has a number or a reason.
func TestDirtyRate(t *testing.T) {
	b := newBed(t)
	b.run(testDomain, "define", "-")
	if _, stderr, status := b.run("", "dirty-rate", "demo"); status != 1 || !strings.Contains(stderr, "domain is not running") {
		t.Errorf("%d %s", status, stderr)
	}
	b.run("", "start", "demo")
	e := b.driver.Engine("demo")
	for _, c := range []struct {
		line, prints string
		status       int
		rate         int64 // -1 for a measurement that fails
	}{
		{"dirty-rate demo --seconds 2 --mode dirty-bitmap", "Dirty rate:      123 MiB/s\n", 0, 123},
		{"-o json dirty-rate demo", `{
  "MiBPerSecond": 0,
  "mode": "page-sampling",
  "name": "demo",
  "seconds": 1
}
`, 0, 0},
		{"dirty-rate demo", "error: failed to measure the dirty rate of domain 'demo': the engine gave it up; its log says why\n", 1, -1},
		{"dirty-rate demo --mode dirty-ring", "error: option --mode: 'dirty-ring' is neither page-sampling nor dirty-bitmap\n", 1, 0},
		{"dirty-rate demo --seconds 61", "error: failed to measure the dirty rate of domain 'demo': invalid argument: seconds=61 is invalid, please choose value within [1, 60].\n", 1, 0},
	} {
		over := make(chan struct{})
		var guest sync.WaitGroup
		guest.Go(func() {
			for !e.Measure(c.rate) {
				select {
				case <-over:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
		stdout, stderr, status := b.run("", strings.Fields(c.line)...)
		close(over)
		guest.Wait()
		if status != c.status || stdout+stderr != c.prints {
			t.Errorf("vctl %s: status %d\n%s%s", c.line, status, stdout, stderr)
		}
	}
}

// A guest that does not answer its balloon gets an explanation when the time is over.
func TestBalloonSaysWhyNot(t *testing.T) {
	b := newBed(t)
	b.run(testDomain, "define", "-")
	b.run("", "start", "demo", "--paused")
	e := b.driver.Engine("demo")
	if e == nil {
		t.Fatal("no engine")
	}
	e.SetGuestStats(map[driver.MemoryStat]uint64{})
	e.FreezeBalloon()
	_, stderr, status := b.run("", "balloon", "demo", "300MiB", "--timeout", "300ms")
	if status != 1 || !strings.Contains(stderr, "has 512 MiB, not 300 MiB: the guest has not answered") {
		t.Errorf("%d %s", status, stderr)
	}
}

// edit never loses what was typed.
func TestEdit(t *testing.T) {
	b := newBed(t)
	b.run(testDomain, "define", "-")
	t.Setenv("TMPDIR", b.dir)
	for _, c := range []struct {
		name, editor, answers string
		status                int
		says                  string
		kept                  string // in the draft that is left, or "" when none is
	}{
		{"nothing changed", "true", "", 0, "not changed", ""},
		{"changed", `sed -i s/524288/262144/g`, "", 0, "XML configuration edited", ""},
		{"refused and given up", `sed -i s/hvm/xen/`, "n\n", 1, "your text is kept in", "xen"},
		{"refused and input ends", `sed -i s/hvm/xen/`, "", 1, "your text is kept in", "xen"},
		{"editor fails", "false", "", 1, "editor 'false'", "<name>demo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("VISUAL", "")
			t.Setenv("EDITOR", c.editor)
			stdout, stderr, status := b.run(c.answers, "edit", "demo")
			if status != c.status || !strings.Contains(stdout+stderr, c.says) {
				t.Errorf("%d\n%s\n%s", status, stdout, stderr)
			}
			drafts, _ := filepath.Glob(filepath.Join(b.dir, "vctl-demo-*.xml"))
			if (c.kept != "") != (len(drafts) == 1) {
				t.Fatalf("drafts left: %v", drafts)
			}
			if c.kept != "" {
				data, _ := os.ReadFile(drafts[0])
				if !strings.Contains(string(data), c.kept) {
					t.Errorf("the draft has\n%s", data)
				}
				os.Remove(drafts[0])
			}
		})
	}
	if out, _, _ := b.run("", "dominfo", "demo"); !strings.Contains(out, "Max memory:      262144 KiB") {
		t.Errorf("the edit did not take effect:\n%s", out)
	}
}

func TestConnectionFailuresAreExplained(t *testing.T) {
	dir := t.TempDir()
	for uri, want := range map[string]string{
		"qemu:///system?socket=" + dir + "/none": "is virtd running?",
		"nonsense":                               "is not like qemu:///system",
	} {
		var out, errs bytes.Buffer
		if status := run(context.Background(), []string{"vctl", "-c", uri, "list"}, nil, &out, &errs); status != 1 || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: %d %s", uri, status, errs.String())
		}
	}
}
