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
