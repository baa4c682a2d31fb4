package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const testRNG = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\n"

// TestDeviceCommands is one day of a domain's devices, as TestCommands is one of a domain.
func TestDeviceCommands(t *testing.T) {
	b := newBed(t)
	t.Chdir(b.dir)
	for file, text := range map[string]string{"demo.xml": testDomain, "rng.xml": testRNG} {
		if err := os.WriteFile(filepath.Join(b.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.day([]line{
		{"define demo.xml", 0, ``},
		{"net create lab --nat 10.9.0.0/24", 0, ``},

		{"disk attach demo /srv/b.img vdb --live", 1, `^error: failed to attach disk: .*domain is not running`},
		{"disk attach demo /srv/b.img vdb", 0, `^Disk attached successfully\n$`},
		{"disk attach demo /srv/b.img vdb", 1, `^error: failed to attach disk: .*target vdb already exists`},
		{"disk attach demo /srv/b.img", 1, `^error: command 'disk attach' requires <target>; see vctl disk attach --help`},
		{"disk attach demo /srv/c.img vdc --format vmdk", 1, `^error: disk format 'vmdk': use raw or qcow2`},
		{"disk attach demo c.img vdc", 1, `must be absolute`},
		{"device list demo", 0, `(?m)^ Kind +Alias +Target +Address +Source\n-+\n( .*\n)* disk +- +vdb +0000:\S+ +/srv/b.img$`},
		{"start demo", 0, ``},
		{"disk attach demo /srv/c<1>.img vdc --format qcow2 --readonly --live", 0, `^Disk attached successfully\n$`},
		{"dumpxml demo", 0, `(?s)type='qcow2'.*'/srv/c&lt;1&gt;.img'.*<target dev='vdc' bus='virtio'/>.*<readonly/>`},
		{"device list demo", 0, `(?m)^ disk +virtio-disk\d +vdc +0000:\S+ +/srv/c<1>.img$`},
		{"disk throttle demo vdb", 0, `^No limits\n$`},
		{"disk throttle demo vdb --read-bytes-sec 10MiB --write-iops-sec 50 --write-iops-sec-max 100 --write-iops-sec-max-length 5 --size-iops-sec 64KiB --group-name bulk", 0,
			`^Limits changed successfully\n$`},
		{"disk throttle demo vdb", 0, `^ Limit +Value\n-+\n read_bytes_sec +10485760\n write_iops_sec +50\n write_iops_sec_max +100\n size_iops_sec +65536\n group_name +bulk\n write_iops_sec_max_length +5\n$`},
		{"-o json disk throttle demo vdb", 0, `(?s)"group_name": "bulk".*"total_bytes_sec": 0.*"write_iops_sec": 50,`},
		{"disk throttle demo vdb --read-bytes-sec 10", 1, `^error: option --read-bytes-sec: size '10' has no unit; write 10MiB`},
		{"disk throttle demo vdb --read-iops-sec 10k", 1, `^error: option --read-iops-sec: '10k' is not a number\n$`},
		{"disk throttle demo vdb --total-bytes-sec 1MiB --read-bytes-sec 1MiB", 1,
			`^error: failed to change the limits of disk vdb: .*total and read/write of bytes_sec cannot be set at the same time`},
		{"disk throttle demo vdz --total-iops-sec 5", 1, `^error: failed to change the limits of disk vdz: .*disk 'vdz'`},
		{"disk throttle demo vdz", 1, `disk 'vdz' was not found`},
		{"disk throttle demo", 1, `^error: command 'disk throttle' requires <target>`},
		{"disk throttle demo vdb --read-bytes-sec 0 --write-iops-sec 0 --write-iops-sec-max 0 --write-iops-sec-max-length 0 --size-iops-sec 0", 0, `changed`},
		{"disk throttle demo vdb", 0, `^No limits\n$`},
		{"disk detach demo vdz", 1, `^error: failed to detach disk: no disk found whose source path or target is vdz\n$`},
		{"disk detach demo vdc --config", 1, `no disk found`},
		{"disk detach demo vdc", 0, `^Disk detached successfully\n$`},
		{"disk detach demo /srv/b.img --live --config", 0, `^Disk detached successfully\n$`},
		{"disk detach demo vdb --config", 1, `no disk found`},
		{"disk attach demo /srv/d vdd --block --live", 0, `attached`},
		{"dumpxml demo", 0, `(?s)<disk type='block'.*<source dev='/srv/d'`},
		{"disk nonsense", 1, `^error: unknown command: 'disk nonsense'; vctl disk --help`},

		{"nic attach demo", 1, `^error: say where it belongs: --bridge NAME or --network NAME`},
		{"nic attach demo --bridge br0 --network lab", 1, `exclude each other`},
		{"nic attach demo --bridge br0 --mac ten", 1, `^error: invalid MAC address 'ten'`},
		{"nic attach demo --bridge br0 --driver xdp", 1, `use qemu or vhost`},
		{"nic attach demo --bridge br0 --queues 0", 1, `^error: failed to attach interface: .*queues='0'`},
		{"nic attach demo --network nowhere", 1, `^error: failed to attach interface: .*'nowhere'`},
		{"nic attach demo --bridge br0 --mac 52:54:00:00:00:AA --driver vhost --queues 2 --live --config", 0, `^Interface attached successfully\n$`},
		{"dumpxml demo --inactive", 0, `<driver name='vhost' queues='2'/>`}, // the running one shows what the host gave it
		{"device list demo", 0, `(?m)^ interface +net\d +52:54:00:00:00:aa +0000:\S+ +bridge br0$`},
		{"nic attach demo --network lab", 0, `attached`},
		{"device list demo", 0, `(?m)^ interface +net\d +52:54:00:\S+ +0000:\S+ +network lab$`},
		{"nic detach demo 52:54:00:00:00:AA --live --config", 0, `^Interface detached successfully\n$`},
		{"nic detach demo 52:54:00:00:00:aa --config", 1, `no interface with MAC`},
		{"nic detach demo 52:54:00:00:00:aa", 1, `^error: failed to detach interface: no interface with MAC address 52:54:00:00:00:aa was found\n$`},
		{"nic detach demo", 1, `^error: command 'nic detach' requires <mac>`},
		{"nic nonsense", 1, `^error: unknown command: 'nic nonsense'; vctl nic --help`},

		{"device attach demo rng.xml", 0, `^Device attached successfully\n$`},
		{"device list demo", 0, `(?m)^ rng +rng0 +- +0000:\S+ +/dev/urandom$`},
		{"device detach demo rng0", 0, `^Device detach request sent successfully\n$`},
		{"device detach demo rng0", 1, `^error: failed to detach device with alias rng0: .*no device found with alias rng0`},
		{"device attach demo rng.xml --config", 0, `^Device attached successfully\n$`},
		{"device list demo --inactive", 0, `(?m)^ rng +- +- +0000:`},
		{"device detach demo rng.xml --config", 0, `^Device detached successfully\n$`},
		{"device detach demo ./rng.xml --config", 1, `^error: failed to detach device from ./rng.xml: .*matching rng device not found`},
		{"device attach demo nothing.xml", 1, `no such file`},
		{"device attach", 1, `^error: command 'device attach' requires <domain> and <file>`},
		{"device list", 1, `^error: command 'device list' requires <domain>; see`},
		{"device list nobody", 1, `^error: failed to get domain 'nobody'`},
		{"device nonsense", 1, `^error: unknown command: 'device nonsense'`},
		{"device attach --generate-bash-completion", 0, `(?m)^demo$`},
	})
	if out, stderr, status := b.run(testRNG, "device", "attach", "demo", "-"); status != 0 {
		t.Errorf("from standard input: %d %s%s", status, out, stderr)
	}
	out, stderr, _ := b.run("", "-o", "json", "device", "list", "demo")
	var list []domainDevice
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr)
	}
	i := slices.IndexFunc(list, func(v domainDevice) bool { return v.Kind == "disk" })
	if i < 0 || list[i].Target != "vdd" || list[i].Source != "/srv/d" || list[i].Alias == "" || list[i].Address == "" {
		t.Errorf("%+v", list)
	}
}

// What devices of other daemons look like.
func TestDevicesOfXML(t *testing.T) {
	const devicesXML = `<domain><os><type>hvm</type></os><metadata><devices><disk/></devices></metadata><devices><emulator>/usr/bin/x</emulator>
<disk type='volume'><source pool='p' volume='v'/><target dev='sda'/><alias name='scsi0-0-0-1'/><address type='drive' controller='0' bus='0' target='0' unit='1'/></disk>
<hostdev><source><address domain='0x0001' bus='0x0a' slot='0x1f' function='0x7'/></source></hostdev>
<channel type='unix'><source path='/run/x'/><target type='virtio' name='n'/><address type='virtio-serial' controller='0' bus='0' port='2'/></channel><input/></devices><seclabel/></domain>`
	list, err := devices(devicesXML)
	if err != nil {
		t.Fatal(err)
	}
	want := []domainDevice{
		{Kind: "disk", Alias: "scsi0-0-0-1", Target: "sda", Address: "drive 0:0:1", Source: "volume p/v", typ: "volume"},
		{Kind: "hostdev", Source: "0001:0a:1f.7"},
		{Kind: "channel", Address: "virtio-serial 0:0:2", Source: "/run/x", typ: "unix"},
		{Kind: "input", text: "<input/>"},
	}
	if len(list) != len(want) {
		t.Fatalf("%+v", list)
	}
	for i, got := range list {
		if !strings.HasPrefix(got.text, "<"+want[i].Kind) || !strings.HasSuffix(got.text, ">") {
			t.Errorf("text of %s is %q", got.Kind, got.text)
		}
		if want[i].text == "" {
			got.text = ""
		}
		if got != want[i] {
			t.Errorf("got %+v, want %+v", got, want[i])
		}
	}
	if _, err := devices("<domain><devices><disk></devices>"); err == nil {
		t.Error("bad XML is read")
	}
}
