package domain

import (
	"fmt"
	"strings"
	"testing"

	"virtd/virterr"
)

func liveOf(t *testing.T, machine, features, devices string) *Definition {
	t.Helper()
	d, err := Parse(fmt.Sprintf(`<domain type='kvm'><name>a</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='%s'>hvm</type><kernel>/boot/vmlinuz</kernel></os><features>%s</features>
<devices>%s</devices></domain>`, machine, features, devices), Options{})
	if err != nil {
		t.Fatal(err)
	}
	live, err := d.Start(1, nil)
	if err != nil {
		t.Fatal(err)
	}
	return live
}

func ports(d *Definition) (n int) {
	for _, c := range d.View().Devices.Controllers {
		if c.Model == "pcie-root-port" {
			n++
		}
	}
	return n
}

// A q35 domain starts with free root ports; what its definition has counts.
func TestSparePorts(t *testing.T) {
	port := "<controller type='pci' model='pcie-root-port'/>"
	for _, c := range []struct {
		name, machine, features, devices string
		want                             int
	}{
		{"balloon only", "q35", "<acpi/>", "", 1 + SparePorts},
		{"ports of its own", "q35", "<acpi/>", strings.Repeat(port, 3), SparePorts + 1},
		{"as virt-install has it", "q35", "<acpi/>", strings.Repeat(port, 14), 14},
		{"nobody to tell", "q35", "", "", 1},
		{"no root ports", "pc", "<acpi/>", "", 0},
	} {
		live := liveOf(t, c.machine, c.features, c.devices)
		if got := ports(live); got != c.want {
			t.Errorf("%s: %d root ports, want %d", c.name, got, c.want)
		}
		again, err := Parse(live.XML(XMLSecure), Options{Live: true, Stored: true})
		if err != nil || again.XML(0) != live.XML(0) {
			t.Errorf("%s: read again: %v\n%s", c.name, err, live.XML(0))
		}
		v, err := ParseDevice(`<rng><backend model='random'>/dev/urandom</backend></rng>`)
		if err != nil {
			t.Fatal(err)
		}
		more, _, err := again.AttachLive(v)
		if err != nil {
			continue // nothing is free
		}
		// As when its saved state is restored: the guest knows its ports.
		if more, err = more.Start(2, nil); err != nil || ports(more) != c.want {
			t.Errorf("%s: started again with %d root ports (%v)", c.name, ports(more), err)
		}
	}
}

func TestAttachLiveOnPC(t *testing.T) {
	live := liveOf(t, "pc", "<acpi/>", "")
	for i := 0; ; i++ {
		target := fmt.Sprintf("vd%c%c", 'a'+i/26, 'a'+i%26)
		v, err := ParseDevice(fmt.Sprintf(`<disk><source file='/%s'/><target dev='%s' bus='virtio'/></disk>`, target, target))
		if err != nil {
			t.Fatal(err)
		}
		more, alias, err := live.AttachLive(v)
		if i == 29 { // slots 2 to 31 but the balloon's
			if !virterr.Is(err, virterr.InternalError) || err.Error() != "internal error: No more available PCI slots" {
				t.Errorf("full: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		at, err := ReadPCIAddress(byAlias(more.doc.Root.Child("devices"), alias).Child("address"))
		if err != nil || at.Bus != 0 || at.Slot < 3 {
			t.Errorf("%s is at %v (%v)", alias, at, err)
		}
		live = more
	}
}

// What a user copies from another domain's document: names that hosts give are not taken over, an address is.
func TestAttachLiveTakesAddressOnly(t *testing.T) {
	live := liveOf(t, "q35", "<acpi/>", "")
	v, err := ParseDevice(`<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet3'/>
<model type='virtio'/><alias name='net7'/><address type='pci' domain='0' bus='3' slot='0' function='0'/></interface>`)
	if err != nil {
		t.Fatal(err)
	}
	more, alias, err := live.AttachLive(v)
	if err != nil || alias != "net0" {
		t.Fatalf("alias %q, %v", alias, err)
	}
	n := byAlias(more.doc.Root.Child("devices"), alias)
	if n.Child("target") != nil || n.Child("address").Attr("bus") != "0x03" {
		t.Errorf("%s", more.XML(0))
	}
	if ports(more) != ports(live) {
		t.Errorf("%d root ports, before %d", ports(more), ports(live))
	}
	if _, _, err := more.AttachLive(v); !virterr.Is(err, virterr.XMLError) || !strings.Contains(err.Error(), "double use of PCI Address") {
		t.Errorf("again: %v", err)
	}
}

// A function of the host comes and goes by its address there, as <hostdev> or as an interface, and once only.
func TestAttachHostdevLive(t *testing.T) {
	live := liveOf(t, "q35", "<acpi/>", `<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:01'/>
<source><address type='pci' domain='0' bus='6' slot='16' function='0'/></source></interface>`)
	device := func(text string) *Device {
		v, err := ParseDevice(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const card = `<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='3' slot='0' function='0'/></source></hostdev>`
	with, alias, err := live.AttachLive(device(card))
	if err != nil || alias != "hostdev1" {
		t.Fatalf("alias %q, %v", alias, err)
	}
	n := byAlias(with.doc.Root.Child("devices"), alias)
	if n.Child("driver").Attr("name") != "vfio" || n.Child("address").Attr("bus") == "0x00" || !with.IsHostdev(alias) || with.IsHostdev("rng0") {
		t.Errorf("attached:\n%s", with.XML(0))
	}
	if got := strings.Join(with.LiveAliases(), " "); got != "hostdev0 hostdev1" {
		t.Errorf("devices that come and go: %s", got)
	}
	for _, again := range []string{card, `<interface type='hostdev'><mac address='52:54:00:00:00:02'/><source><address type='pci' domain='0' bus='3' slot='0' function='0'/></source></interface>`} {
		if _, _, err := with.AttachLive(device(again)); !virterr.Is(err, virterr.OperationFailed) || !strings.Contains(err.Error(), "target pci device 0000:03:00.0 already exists") {
			t.Errorf("again: %v", err)
		}
	}
	if found, err := with.FindLive(device(card)); err != nil || found != alias {
		t.Errorf("found %q, %v", found, err)
	}
	other := strings.Replace(card, "bus='3'", "bus='4'", 1)
	if _, err := with.FindLive(device(other)); !virterr.Is(err, virterr.DeviceMissing) || !strings.Contains(err.Error(), "host pci device 0000:04:00.0 not found") {
		t.Errorf("not there: %v", err)
	}
	if _, err := with.FindLive(device(`<hostdev mode='subsystem' type='pci'/>`)); !virterr.Is(err, virterr.XMLError) {
		t.Errorf("without an address: %v", err)
	}
	if found, err := with.FindLive(device(`<interface type='hostdev'><mac address='52:54:00:00:00:01'/></interface>`)); err != nil || found != "hostdev0" {
		t.Errorf("found %q, %v", found, err)
	}
}

// A function that comes uses iommufd when the domain does, unless it says otherwise, which is refused beside another.
func TestAttachIOMMUFDLive(t *testing.T) {
	const card = `<hostdev mode='subsystem' type='pci' managed='yes'>DRIVER<source><address domain='0' bus='3' slot='0' function='0'/></source></hostdev>`
	for _, c := range []struct {
		domain, has, comes string
		uses, refused      bool
	}{
		{"<acpi/>", "", "", false, false},
		{"<acpi/>", "", "<driver iommufd='yes'/>", true, false},
		{"<acpi/>", "<driver name='vfio' iommufd='yes'/>", "<driver iommufd='yes'/>", true, false},
		{"<acpi/>", "<driver name='vfio' iommufd='yes'/>", "", false, true},
		{"<acpi/>", "<driver name='vfio'/>", "<driver iommufd='yes'/>", false, true},
	} {
		has := ""
		if c.has != "" {
			has = strings.Replace(strings.Replace(card, "DRIVER", c.has, 1), "bus='3'", "bus='4'", 1)
		}
		v, err := ParseDevice(strings.Replace(card, "DRIVER", c.comes, 1))
		if err != nil {
			t.Fatal(err)
		}
		with, alias, err := liveOf(t, "q35", c.domain, has).AttachLive(v)
		if refused := virterr.Is(err, virterr.ConfigUnsupported) && strings.Contains(err.Error(), "some host devices of the domain use iommufd and some do not"); refused != c.refused || err != nil && !refused {
			t.Errorf("%s beside %s: %v", c.comes, c.has, err)
		}
		if err != nil {
			continue
		}
		n := byAlias(with.doc.Root.Child("devices"), alias)
		if with.UsesIOMMUFD(n) != c.uses || (n.Child("driver").Attr("iommufd") == "yes") != c.uses {
			t.Errorf("%s beside %s: uses iommufd: %v:\n%s", c.comes, c.has, with.UsesIOMMUFD(n), with.XML(0))
		}
	}
}

// A slot with several functions is not unplugged: a guest lets go of slots. One that comes is the only one of its slot.
func TestLiveFunctionsOfASlot(t *testing.T) {
	function := func(host, guest string) string {
		return `<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='3' slot='0' function='` + host +
			`'/></source><address type='pci' bus='1' slot='0' function='` + guest + `'/></hostdev>`
	}
	live := liveOf(t, "q35", "<acpi/>", function("0", "0")+function("1", "1"))
	for _, n := range []string{"0", "1"} {
		v, err := ParseDevice(function(n, n))
		if err != nil {
			t.Fatal(err)
		}
		const says = "cannot hot unplug multifunction PCI device with guest address: 0000:01:00."
		if _, err := live.FindLive(v); !virterr.Is(err, virterr.OperationFailed) || !strings.Contains(err.Error(), says+n) {
			t.Errorf("detach function %s: %v", n, err)
		}
		if err := live.CheckDetachLive("hostdev" + n); !virterr.Is(err, virterr.OperationFailed) {
			t.Errorf("detach function %s by alias: %v", n, err)
		}
	}
	late := strings.Replace(function("2", "2"), "bus='1'", "bus='4'", 1)
	for _, text := range []string{function("2", "2"), late} {
		v, err := ParseDevice(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := live.AttachLive(v); !virterr.Is(err, virterr.InternalError) || !strings.Contains(err.Error(), "Only PCI device addresses with function=0 are supported") {
			t.Errorf("attach %s: %v", text, err)
		}
	}
	v, err := ParseDevice(strings.Replace(late, "function='2'/></hostdev>", "function='0'/></hostdev>", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := live.AttachLive(v); err != nil {
		t.Error(err)
	}
}
