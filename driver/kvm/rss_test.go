package kvm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/domain"
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

// TestRSSError: a kernel that lets virtd load no program is told from one that cannot.
func TestRSSError(t *testing.T) {
	for cause, remedy := range map[error]string{unix.EPERM: "CAP_BPF", unix.ENOSYS: "use rss='off'"} {
		err := rssError("net1", "the kernel does not load a BPF program for it", cause)
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), remedy) {
			t.Errorf("%v", err)
		}
	}
}
