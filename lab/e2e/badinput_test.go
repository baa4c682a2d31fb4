package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// What a user gets wrong is answered with what, where and what to do, and nothing is left half made.
func TestLabBadInput(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.Virsh)
	h := startHost(t)
	k := labtest.Kernel("6.1")
	h.bridge("virtdbr2", "10.94.0.1/24")
	image := h.image("held.img", 8)
	holder := h.define(guest{name: "holder", kernel: k, memory: 128,
		devices: disk(image, "vda", "") + tapNIC("virtdbr2", "virtdtap0")})
	h.vctl("start", "--paused", holder)
	good := h.image("good.img", 8)
	before := h.settled()

	missing := k
	missing.Image = h.path("no/such/vmlinuz")
	text := k
	text.Image = h.file("text", "this is no kernel\n")
	for _, c := range []struct {
		guest guest
		want  []string
	}{
		{guest{name: "nokernel", kernel: missing}, []string{"Cannot access kernel '" + missing.Image + "'", "No such file or directory", "directory '" + h.path("no") + "' does not exist"}},
		{guest{name: "textkernel", kernel: text}, []string{"kernel"}},
		{guest{name: "noimage", kernel: k, devices: disk(h.path("none.img"), "vda", "")}, []string{"Cannot access storage file '" + h.path("none.img") + "' (as uid:0, gid:0): No such file or directory"}},
		{guest{name: "dirimage", kernel: k, devices: disk(h.dir, "vda", "")}, []string{h.dir, "directory"}},
		{guest{name: "nobridge", kernel: k, devices: disk(good, "vda", "") + nic("nosuchbr", "qemu", 1)}, []string{"nosuchbr", "No such device"}},
		{guest{name: "notabridge", kernel: k, devices: disk(good, "vda", "") + nic("lo", "qemu", 1)}, []string{"lo", "not a bridge"}},
		{guest{name: "busytap", kernel: k, devices: disk(good, "vda", "") + tapNIC("virtdbr2", "virtdtap0")}, []string{"virtdtap0", "usy"}},
		{guest{name: "locked", kernel: k, devices: disk(good, "vda", "") + disk(image, "vdb", "")}, []string{image, "is in use by domain 'holder'"}},
		{guest{name: "huge", kernel: k, memory: 1 << 20}, []string{"cannot set up guest memory", "1048576 MiB"}},
	} {
		name := h.define(c.guest)
		for _, client := range []string{"vctl", "virsh"} {
			_, errs, status := h.try(client, "start", name)
			if status != 1 {
				t.Errorf("%s: %s start ends with %d", name, client, status)
			}
			for _, want := range c.want {
				if !strings.Contains(errs, want) {
					t.Errorf("%s: no %q in %s", name, want, errs)
				}
			}
		}
		h.state(name, "shut off (")
		h.vctl("undefine", name)
		h.leavesNothing(before, name)
	}
	for _, c := range []struct{ action, want string }{
		{"start", "already running"}, {"resume", "domain is already running"},
		{"shutdown", "domain is not running"}, {"reboot", "domain is not running"}, {"reset", "domain is not running"}, {"destroy", "domain is not running"},
	} {
		name := holder
		if c.want == "domain is not running" {
			name = "idle"
			if !strings.Contains(h.vctl("list", "--all", "--name"), name) {
				h.define(guest{name: name, kernel: k})
			}
		}
		if c.action == "resume" {
			h.vctl("resume", name)
		}
		h.refuses(c.want, "vctl", c.action, name)
	}
	h.vctl("destroy", holder)
	h.vctl("start", holder)
}

// A document is refused with the line and column of what is wrong, and what was defined before stays.
func TestLabBadDocuments(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	h := startHost(t)
	xml := guest{name: "doc", kernel: labtest.Kernel("6.1"), memory: 128}.xml(h)
	name := h.defineXML("doc", xml)
	before := h.vctl("dumpxml", "--inactive", name)
	for _, c := range []struct{ name, old, text, want string }{
		{"broken", "</vcpu>", "</vcpus>", "line 4, column "},
		{"security", "<cpu mode", "<launchSecurity type='sev'/><cpu mode", "element <launchSecurity> (domain/launchSecurity) is not supported"},
		{"device", "<serial type", "<tpm model='tpm-tis'/><serial type", "element <tpm> (domain/devices/tpm) is not supported"},
		{"size", "unit='MiB'", "unit='bogus'", "line 3, column 3: <memory>: unknown unit 'bogus'"},
		{"vcpus", ">1</vcpu>", ">65</vcpu>", "line 4, column 3: 65 vCPUs are more than the machine's limit of 64"},
		{"name", "<name>doc", "<name>a/b", "line 2, column 3"},
		{"same", ">1</vcpu>", ">2</vcpu>", "domain 'doc' already exists with uuid"},
	} {
		if !strings.Contains(xml, c.old) {
			t.Fatalf("%s: the document has no %s", c.name, c.old)
		}
		file := h.file(c.name+".xml", strings.Replace(xml, c.old, c.text, 1))
		h.refuses(c.want, "vctl", "define", file)
		h.refuses(c.want, "virsh", "define", file)
		if got := strings.Fields(h.vctl("list", "--all", "--name")); len(got) != 1 {
			t.Errorf("%s: domains %q", c.name, got)
		}
	}
	if after := h.vctl("dumpxml", "--inactive", name); after != before {
		t.Errorf("the definition changed:\n%s", after)
	}
	firmware := strings.Replace(strings.Replace(xml, "<name>doc", "<name>firmware", 1), "<kernel>", "<!-- <kernel>", 1)
	firmware = strings.Replace(firmware, "</cmdline>", "</cmdline> -->", 1)
	h.defineXML("firmware", firmware)
	h.refuses("unsupported configuration", "virsh", "start", "firmware")
}

// A virtd that is not root runs guests when its user may open /dev/kvm, and says which group is missing when not; an
// image that it may not read is explained.
func TestLabUnprivileged(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	var st syscall.Stat_t
	if err := syscall.Stat("/dev/kvm", &st); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod("/dev/kvm", 0o660); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod("/dev/kvm", os.FileMode(st.Mode&0o777)) })
	k := labtest.Kernel("6.1")

	h := startHostAs(t, &syscall.Credential{Uid: 4242, Gid: 4242})
	name := h.define(guest{name: "nokvm", kernel: k, memory: 128})
	h.refuses("Could not access KVM kernel module '/dev/kvm': Permission denied (uid 4242", "vctl", "start", name)
	h.refuses("add the user to group", "virsh", "start", name)
	h.state(name, "shut off")

	h = startHostAs(t, &syscall.Credential{Uid: 4242, Gid: 4242, Groups: []uint32{st.Gid}})
	private := h.path("private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(private, "disk.img"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	name = h.define(guest{name: "unreadable", kernel: k, devices: disk(filepath.Join(private, "disk.img"), "vda", "")})
	h.refuses(fmt.Sprintf("Cannot access storage file '%s/disk.img' (as uid:4242, gid:4242): Permission denied (uid 4242 has no search permission (x) on directory '%s'",
		private, private), "vctl", "start", name)
	h.state(name, "shut off")

	name = h.define(guest{name: "user", kernel: k, memory: 128, run: "echo hello"})
	h.vctl("start", name)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.engine(name)))
	if err != nil {
		t.Fatal(err)
	}
	if uid := field(t, string(status), `Uid:\s+(\d+)`); uid != 4242 {
		t.Errorf("the engine runs as uid %d", uid)
	}
	h.finish(name, 150*time.Second)
}

// tapNIC is a card on a tap of that name.
func tapNIC(bridge, tap string) string {
	return strings.Replace(nic(bridge, "qemu", 1), "<model", "<target dev='"+tap+"'/><model", 1)
}
