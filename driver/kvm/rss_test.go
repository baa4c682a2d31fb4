package kvm

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/kvm/steering"
	"virtd/network/bridge"
	"virtd/virterr"
)

// TestPlanRSSNeedsTap: an interface without a tap whose queues can be chosen is refused, and named.
func TestPlanRSSNeedsTap(t *testing.T) {
	text, err := os.ReadFile(domainDocuments + "interface-rss.xml")
	if err != nil {
		t.Fatal(err)
	}
	for kind, source := range map[string]string{
		"direct":    "<source dev='eth0' mode='bridge'/>",
		"user":      "",
		"vhostuser": "<source type='unix' path='/run/ovs.sock' mode='client'/>",
	} {
		doc := strings.NewReplacer("type='ethernet'", "type='"+kind+"'", "<target dev='web0' managed='no'/>", source, "name='vhost' queues='2' ", "").Replace(string(text))
		def, err := domain.Parse(doc, domain.Options{})
		if err != nil {
			t.Fatal(err)
		}
		live, err := def.Start(1, planHost{})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = Plan(live, facts)
		if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "interface net1") || !strings.Contains(err.Error(), "type "+kind) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestPlanHashReport: hash reports need the engine, which moves the packets of an interface that leaves its driver open then.
func TestPlanHashReport(t *testing.T) {
	text, err := os.ReadFile(domainDocuments + "interface-hash-report.xml")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for _, c := range []struct{ name, old, replacement, want string }{
		{"engine", "", "", ""},
		{"vhost-net", "<driver queues='4' rss='on'", "<driver name='vhost' queues='4'", "vhost-net reports no hashes"},
		{"a device of vhost-net", "<driver queues='4' rss='on'", "<backend vhost='/dev/vhost-net'/><driver queues='4'", "vhost-net reports no hashes"},
		{"vhost-user", "type='user'>", "type='vhostuser'><source type='unix' path='/run/ovs.sock' mode='client'/>", "type vhostuser"},
	} {
		edited := strings.Replace(doc, c.old, c.replacement, 1)
		if (edited == doc) != (c.old == "") {
			t.Fatalf("%s: no %q in the document", c.name, c.old)
		}
		def, err := domain.Parse(edited, domain.Options{})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		live, err := def.Start(1, planHost{})
		if err != nil {
			t.Fatal(err)
		}
		cfg, _, err := Plan(live, facts)
		if c.want != "" {
			if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "interface net") {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, nic := range cfg.NICs {
			if !nic.HashReport || nic.Driver != "qemu" || len(nic.Vhosts) != 0 {
				t.Errorf("%s of a host with vhost-net is planned as %+v", nic.ID, nic)
			}
		}
	}
}

// TestTapTakesNoProgram: what is no tap that the kernel asks a program for, as a macvtap, does not start.
func TestTapTakesNoProgram(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "macvtap7"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = takesSteering(&bridge.Tap{Name: "macvtap7", Files: []*os.File{f}}, "net1")
	if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "interface net1") || !strings.Contains(err.Error(), "macvtap7") {
		t.Errorf("%v", err)
	}
}

// TestSteeringEndsWithEngine: an engine that is killed leaves its program to a tap that stays, and virtd takes it away.
func TestSteeringEndsWithEngine(t *testing.T) {
	runtime.LockOSThread() // the network namespace ends with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs the right to make a network namespace (CAP_SYS_ADMIN): %v", err)
	}
	program, table, err := steering.Open()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("needs the right to load BPF programs: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("needs /dev/net/tun: %v", err)
	}
	links := &bridge.Host{}
	tap, err := links.OpenTap(bridge.TapConfig{Name: "web0", Queues: 2, Owner: -1, Persistent: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(tap.Files[0].Fd()), unix.TUNSETSTEERINGEBPF, int(program.Fd())); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := ebpf.NewProgramFromFD(fd) // which has the descriptor from now on
	if err != nil {
		t.Fatal(err)
	}
	info, err := loaded.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	tap.Close() // as the kernel does
	loaded.Close()
	program.Close()
	lives := func() bool {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		p.Close()
		return err == nil
	}
	if !lives() {
		t.Fatal("the tap did not keep its program: nothing is tested")
	}

	text, err := os.ReadFile(domainDocuments + "interface-rss.xml")
	if err != nil {
		t.Fatal(err)
	}
	def, err := domain.Parse(string(text), domain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	live, err := def.Start(1, planHost{})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := &Driver{cfg: Config{Links: links}, log: slog.New(slog.NewTextHandler(&log, nil))}
	gone := record{Version: recordVersion, PID: 1 << 30, StartTime: 1, UID: -1, Dir: filepath.Join(t.TempDir(), "live"),
		Taps: map[string]string{"net0": "vnet0", "net1": "web0"}} // vnet0 went with the engine
	encoded, err := gone.encode()
	if err != nil {
		t.Fatal(err)
	}
	var ended *driver.Gone
	if _, err := d.Adopt(t.Context(), encoded, live); !errors.As(err, &ended) {
		t.Fatalf("an engine that is no more is adopted: %v", err)
	}
	for end := time.Now().Add(10 * time.Second); lives(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the tap still has its program: %s", log.String())
		}
	}
	if _, err := links.Link("vnet0"); err == nil || strings.Contains(log.String(), "receive-side") {
		t.Errorf("a tap that is gone: %v, %s", err, log.String())
	}
	if err := links.Delete("web0"); err != nil {
		t.Error(err)
	}
}

// TestRSSError: a kernel that lets virtd load no program is told from one that cannot.
func TestRSSError(t *testing.T) {
	for cause, remedy := range map[error]string{unix.EPERM: "CAP_BPF", unix.ENOSYS: "use rss='off'"} {
		err := rssError("net1", "the kernel does not load a BPF program for it", cause)
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), remedy) {
			t.Errorf("%v", err)
		}
	}
}
