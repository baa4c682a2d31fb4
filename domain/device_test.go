package domain

import (
	"fmt"
	"strings"
	"testing"

	"virtd/virterr"
)

const deviceDomain = `<domain type='kvm'><name>d</name><memory unit='MiB'>64</memory><os><type>hvm</type><kernel>/k</kernel></os>
  <devices>
    <!-- the root disk -->
    <disk type='file' device='disk'><source file='/a.img'/><target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><model type='virtio'/></interface>
  </devices></domain>`

func device(t *testing.T, text string) *Device {
	t.Helper()
	v, err := ParseDevice(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func deviceFixture(t *testing.T) *Definition {
	t.Helper()
	d, err := Parse(deviceDomain, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAttachDetachRestores(t *testing.T) {
	d := deviceFixture(t)
	v := device(t, `<disk type='file' device='disk'><source file='/b.img'/><target dev='vdb' bus='virtio'/></disk>`)
	more, err := d.AttachDevice(v)
	if err != nil {
		t.Fatal(err)
	}
	disk := more.View().Devices.Disks[1]
	if disk.Target.Dev != "vdb" || disk.Address == nil || disk.Address.PCI == nil {
		t.Fatalf("attached: %+v", disk)
	}
	if len(d.View().Devices.Disks) != 1 {
		t.Error("the definition that was edited changed")
	}
	less, err := more.DetachDevice(v)
	if err != nil {
		t.Fatal(err)
	}
	// the root port that the disk got stays, as in libvirt
	if text := less.XML(0); strings.Contains(text, "vdb") || !strings.Contains(text, "the root disk") {
		t.Errorf("after detaching:\n%s", text)
	}
}

func TestUpdateKeepsTheAddress(t *testing.T) {
	d := deviceFixture(t)
	before := d.View().Devices.Interfaces[1].Address.PCI
	d, err := d.UpdateDevice(device(t, `<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br7'/><model type='virtio'/></interface>`))
	if err != nil {
		t.Fatal(err)
	}
	nic := d.View().Devices.Interfaces[1]
	if nic.Source.Bridge.Bridge != "br7" || *nic.Address.PCI.Bus != *before.Bus || *nic.Address.PCI.Slot != *before.Slot {
		t.Errorf("updated: %+v at %+v, was at %+v", nic.Source.Bridge, nic.Address.PCI, before)
	}
}

func TestLiveUpdate(t *testing.T) {
	d := deviceFixture(t)
	const nic = `<interface type='bridge'><mac address='52:54:00:00:00:02'/>`
	for text, want := range map[string]string{ // only, link, host
		nic + `<link state='down'/></interface>`:                                                                                "true true false",
		nic + `<source bridge='br0'/><link state='up'/></interface>`:                                                            "true true false",
		nic + `<source bridge='br1'/><link state='down'/></interface>`:                                                          "true true true",
		nic + `<source bridge='br1'/><target dev='vnet9'/></interface>`:                                                         "true false true",
		nic + `<mtu size='9000'/><link state='down'/></interface>`:                                                              "false true false",
		nic + `<bandwidth><inbound average='5'/></bandwidth></interface>`:                                                       "true false true",
		nic + `<source bridge='br0'/><vlan><tag id='5'/></vlan></interface>`:                                                    "true false true",
		nic + `<source bridge='br0'/><filterref filter='clean-traffic'/><link state='up'/></interface>`:                         "true true true",
		nic + `<source bridge='br0'/><port isolated='yes'/><mtu size='9000'/></interface>`:                                      "false false true",
		nic + `<source bridge='br0'/><coalesce><rx><frames max='7'/></rx></coalesce></interface>`:                               "true false true",
		`<interface type='network'><mac address='52:54:00:00:00:02'/><source network='default'/><link state='up'/></interface>`: "false true false",
	} {
		got, only, err := d.LiveUpdate(device(t, text))
		if said := fmt.Sprint(only, got.Link, got.Host); err != nil || want != said || got.MAC != "52:54:00:00:00:02" {
			t.Errorf("%s: %q of %s, want %q, %v", text, said, got.MAC, want, err)
		}
	}
	for text, says := range map[string]string{
		`<bandwidth><inbound floor='5'/></bandwidth>`: "floor attribute is not supported for this config",
		`<vlan/>`:      "missing tag id",
		`<filterref/>`: "needs the name of a filter",
		`<coalesce><rx><frames max='-7'/></rx></coalesce>`: "cannot parse value '-7' for coalesce parameter",
		`<bandwidth><outbound burst='5'/></bandwidth>`:     "Missing mandatory average",
	} {
		if _, _, err := d.LiveUpdate(device(t, nic+text+"</interface>")); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	limited, err := d.SetHostEnd("52:54:00:00:00:02", device(t, nic+`<source bridge='br1'/><bandwidth><inbound average='5'/></bandwidth><vlan><tag id='7'/></vlan></interface>`))
	if err != nil {
		t.Fatal(err)
	}
	n := limited.View().Devices.Interfaces[1]
	if n.Source.Bridge.Bridge != "br1" || *n.Bandwidth.Inbound.Average != 5 || n.VLan.Tags[0].ID != 7 {
		t.Errorf("changed: %+v", n)
	}
	less, err := limited.SetHostEnd("52:54:00:00:00:02", device(t, nic+`<source bridge='br1'/></interface>`))
	if err != nil {
		t.Fatal(err)
	}
	if n := less.View().Devices.Interfaces[1]; n.Source.Bridge.Bridge != "br1" || n.Bandwidth != nil || n.VLan != nil {
		t.Errorf("taken away: %+v", n)
	}
	if _, err := d.SetHostEnd("52:54:00:00:00:77", device(t, nic+"</interface>")); !virterr.Is(err, virterr.DeviceMissing) {
		t.Errorf("nobody's: %v", err)
	}
}

func TestDeviceErrors(t *testing.T) {
	d := deviceFixture(t)
	for _, c := range []struct {
		name, text string
		do         func(*Device) (*Definition, error)
		code       virterr.Code
		says       string
	}{
		{"target taken", `<disk><source file='/b'/><target dev='vda'/></disk>`, d.AttachDevice, virterr.OperationInvalid, "target vda already exists"},
		{"no such target", `<disk><target dev='vdz'/></disk>`, d.DetachDevice, virterr.DeviceMissing, "no target device vdz"},
		{"no such address", `<interface><mac address='52:54:00:00:00:09'/></interface>`, d.DetachDevice, virterr.DeviceMissing, "no device matching MAC address 52:54:00:00:00:09 found"},
		{"which interface", `<interface type='bridge'/>`, d.DetachDevice, virterr.OperationFailed, "2 devices match"},
		{"no rng", `<rng model='virtio'/>`, d.DetachDevice, virterr.DeviceMissing, "matching rng device not found"},
		{"balloon", `<memballoon model='virtio'/>`, d.AttachDevice, virterr.OperationUnsupported, "attach of device 'memballoon'"},
		{"not a device", `<name>x</name>`, d.AttachDevice, virterr.OperationUnsupported, "attach of device 'name'"},
		{"not there yet", `<disk type='network'><source protocol='rbd' name='x'/><target dev='vdb' bus='virtio'/></disk>`, d.AttachDevice, virterr.ConfigUnsupported, "network"},
		{"update of rng", `<rng model='virtio'/>`, d.UpdateDevice, virterr.OperationUnsupported, "update of device 'rng'"},
	} {
		if _, err := c.do(device(t, c.text)); !virterr.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := ParseDevice("<disk>"); !virterr.Is(err, virterr.XMLError) {
		t.Errorf("broken document: %v", err)
	}
}

// FuzzDevice attaches, finds and detaches arbitrary documents: none may panic, and what was attached is found again.
func FuzzDevice(f *testing.F) {
	for _, s := range []string{
		`<disk type='file' device='disk'><source file='/b.img'/><target dev='vdb' bus='virtio'/></disk>`,
		`<interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>`,
		`<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`, `<disk/>`, `<interface><mac/></interface>`,
		`<disk><target dev='vda'/></disk>`, `<serial type='pty'/>`, `<a/>`, ``,
	} {
		f.Add(s)
	}
	d, err := Parse(deviceDomain, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseDevice(text)
		if err != nil {
			return
		}
		_, _ = d.UpdateDevice(v)
		_, _ = d.DetachDevice(v)
		_, _, _ = d.LiveUpdate(v)
		_, _, _ = d.AttachLive(v)
		_, _ = d.FindLive(v)
		more, err := d.AttachDevice(v)
		if err != nil {
			return
		}
		if _, err := Parse(more.XML(XMLInactive), Options{}); err != nil {
			t.Errorf("what AttachDevice made is refused: %v", err)
		}
	})
}
