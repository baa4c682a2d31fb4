package domain

import (
	"strings"
	"testing"

	"virtd/virterr"
)

const savedDomain = `<domain type='kvm'><name>demo</name><uuid>6d9a1cc6-8c1f-4bb0-9d59-2f3d4c0ff5a1</uuid><memory unit='MiB'>64</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/vmlinuz</kernel></os>
<devices>
 <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/img/a.raw'/><target dev='vda' bus='virtio'/></disk>
 <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
 <serial type='pty'/>
</devices></domain>`

// running is savedDomain with what a run adds.
func running(t *testing.T) *Definition {
	t.Helper()
	d, err := Parse(savedDomain, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d, err = d.Start(7, nil); err != nil {
		t.Fatal(err)
	}
	d, err = d.SetRuntime(Runtime{Taps: map[string]string{"net0": "vnet3"}, NetDrivers: map[string]string{"net0": "vhost"},
		TTYs: map[string]string{"serial0": "/dev/pts/9"}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSavedKeepsWhatTheGuestSees(t *testing.T) {
	live := running(t)
	text := live.Saved()
	for _, gone := range []string{"id='7'", "vnet3", "/dev/pts/9"} {
		if strings.Contains(text, gone) {
			t.Errorf("%s is in the saved document", gone)
		}
	}
	for _, kept := range []string{"alias name='net0'", "alias name='virtio-disk0'", "name='vhost'", "/img/a.raw", "type='pci'"} {
		if !strings.Contains(text, kept) {
			t.Errorf("%s is not in the saved document:\n%s", kept, text)
		}
	}
	saved, err := ParseSaved(text, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if saved.Saved() != text {
		t.Error("read and printed again it is another document")
	}
	// a device that had another number when it ran keeps it
	other, err := ParseSaved(strings.ReplaceAll(text, "'net0'", "'net5'"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := other.Start(9, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := again.View().Devices.Interfaces[0].Alias.Name; a != "net5" || again.ID() != 9 {
		t.Errorf("started as %d with %s", again.ID(), a)
	}
	plain, err := saved.Inactive()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.XML(XMLSecure), "alias") {
		t.Error("the inactive definition has aliases")
	}
}

func TestCheckSameMachine(t *testing.T) {
	live := running(t)
	for old, replacement := range map[string]string{
		"<name>demo":         "<name>other",
		"5a1</uuid>":         "5a2</uuid>",
		">65536</memory>":    ">131072</memory>",
		">2</vcpu>":          ">3</vcpu>",
		"slot='0x00'":        "slot='0x01'",
		"pc-q35-virtd-1.1":   "pc-i440fx-virtd-1.1",
		"bus='0x01'":         "bus='0x05'",
		"file='/img/a.raw'":  "",
		"bridge='br0'":       "",
		"dev='vda'":          "",
		"<kernel>/boot/vmli": "",
	} {
		if !strings.Contains(live.Saved(), old) {
			t.Errorf("%q is not in the document:\n%s", old, live.Saved())
			continue
		}
		want := replacement != ""
		if !want {
			replacement = strings.NewReplacer("a.raw", "b.raw", "br0", "br1", "vda", "vdb", "vmli", "boot/vmli").Replace(old)
		}
		other, err := ParseSaved(strings.Replace(live.Saved(), old, replacement, 1), Options{})
		if err != nil {
			continue // refused for itself
		}
		if err := live.CheckSameMachine(other); (err != nil) != want || want && !virterr.Is(err, virterr.ConfigUnsupported) {
			t.Errorf("%q to %q: %v", old, replacement, err)
		}
	}
}

// A guest's driver has chosen its virtqueues, so what a device offers stays.
func TestCheckSameMachineOptions(t *testing.T) {
	live := running(t)
	was := live.Saved()
	on := strings.Replace(was, "<driver name='vhost'", "<driver name='vhost' packed='on'", 1)
	off := strings.Replace(was, "<driver name='vhost'", "<driver name='vhost' packed='off'", 1)
	scaled := strings.Replace(was, "<driver name='vhost'", "<driver name='vhost' rss='on'", 1)
	reported := strings.Replace(was, "<driver name='vhost'", "<driver name='qemu' rss_hash_report='on'", 1)
	if on == was {
		t.Fatalf("no driver in\n%s", was)
	}
	for _, c := range []struct{ is, was, want string }{
		{on, was, "Target device packed option 'on' does not match source 'off': interface at "},
		{was, on, "Target device packed option 'off' does not match source 'on': interface at "},
		{off, was, ""}, {was, off, ""}, {on, on, ""},
		{scaled, was, "Target device rss option 'on' does not match source 'off': interface at "}, {scaled, scaled, ""},
		{was, reported, "Target device rss_hash_report option 'off' does not match source 'on': interface at "}, {reported, reported, ""},
	} {
		before, err := ParseSaved(c.was, Options{})
		if err != nil {
			t.Fatal(err)
		}
		now, err := ParseSaved(c.is, Options{})
		if err != nil {
			t.Fatal(err)
		}
		switch err := before.CheckSameMachine(now); {
		case c.want == "" && err != nil:
			t.Error(err)
		case c.want != "" && (!virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
