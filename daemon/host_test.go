package daemon_test

import (
	"io/fs"
	"net"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/vishvananda/netlink"

	"virtd/daemon"
	"virtd/daemon/nodeinfo"
	"virtd/driver/fake"
	"virtd/network/hostif"
)

// testCPU is the processor of the testbed's host: an EPYC, of which some models are a part.
type testCPU struct{ *fake.Driver }

var _ daemon.CPULister = testCPU{}

// CPUModels implements daemon.CPULister.
func (testCPU) CPUModels() ([]daemon.CPUChoice, error) {
	small := []string{"cx16", "fxsr", "sse2"}
	epyc := append([]string{"aes", "avx2", "svm"}, small...)
	return []daemon.CPUChoice{
		{Name: "qemu64", Usable: true, Features: small},
		{Name: "Opteron_G2", Vendor: "AMD", Usable: true, Features: append([]string{"svm"}, small...)},
		{Name: "EPYC", Vendor: "AMD", Usable: true, Features: epyc},
		{Name: "EPYC-Rome", Vendor: "AMD", Features: append([]string{"clwb"}, epyc...)},
		{Name: "Nehalem", Vendor: "Intel", Features: append([]string{"sse4.2"}, small...)},
	}, nil
}

// testInterfaces are those of the testbed's host: an uplink in a bridge, a bond of two, a VLAN, and a guest's tap.
func testInterfaces() ([]*hostif.Interface, error) {
	attrs := func(index int, name string, mac byte, state netlink.LinkOperState, master int) netlink.LinkAttrs {
		a := netlink.LinkAttrs{Index: index, Name: name, MTU: 1500, OperState: state, MasterIndex: master, RawFlags: 1,
			HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0, mac}}
		if state == netlink.OperDown {
			a.RawFlags = 0
		}
		return a
	}
	loopback := attrs(1, "lo", 0, netlink.OperUnknown, 0)
	loopback.HardwareAddr, loopback.MTU = nil, 65536
	vlan := attrs(7, "bond0.5", 4, netlink.OperUp, 0)
	vlan.ParentIndex = 4
	links := []netlink.Link{
		&netlink.Device{LinkAttrs: loopback},
		&netlink.Device{LinkAttrs: attrs(2, "eth0", 1, netlink.OperUp, 3)},
		&netlink.Bridge{LinkAttrs: attrs(3, "br0", 1, netlink.OperUp, 0)},
		&netlink.Bond{LinkAttrs: attrs(4, "bond0", 4, netlink.OperUp, 0), Mode: netlink.BOND_MODE_802_3AD},
		&netlink.Device{LinkAttrs: attrs(5, "eth1", 4, netlink.OperUp, 4)},
		&netlink.Device{LinkAttrs: attrs(6, "eth2", 4, netlink.OperUp, 4)},
		&netlink.Vlan{LinkAttrs: vlan, VlanId: 5},
		&netlink.Device{LinkAttrs: attrs(8, "eth3", 8, netlink.OperDown, 0)},
		&netlink.Tuntap{LinkAttrs: attrs(9, "vnet0", 9, netlink.OperUp, 3)},
	}
	addresses := []netlink.Addr{
		{LinkIndex: 1, IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}},
		{LinkIndex: 3, IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 10), Mask: net.CIDRMask(24, 32)}},
		{LinkIndex: 3, IPNet: &net.IPNet{IP: net.ParseIP("2001:db8::10"), Mask: net.CIDRMask(64, 128)}},
		{LinkIndex: 7, IPNet: &net.IPNet{IP: net.IPv4(198, 51, 100, 5), Mask: net.CIDRMask(24, 32)}},
	}
	return hostif.Describe(links, addresses), nil
}

// testNode is the testbed's host, whose settings can be changed.
func testNode() *nodeinfo.Node {
	host := testHost()
	for name, value := range map[string]string{
		"pages_to_scan": "100", "sleep_millisecs": "20", "pages_shared": "5", "pages_sharing": "50", "pages_unshared": "7",
		"pages_volatile": "8", "full_scans": "9", "merge_across_nodes": "1",
	} {
		host["sys/kernel/mm/ksm/"+name] = &fstest.MapFile{Data: []byte(value + "\n")}
	}
	var mu sync.Mutex
	return &nodeinfo.Node{FS: lockedFS{&mu, host}, Write: func(name, text string) error {
		mu.Lock()
		defer mu.Unlock()
		if host[name] == nil {
			return fs.ErrNotExist
		}
		host[name] = &fstest.MapFile{Data: []byte(text)}
		return nil
	}}
}

// lockedFS lets files be replaced while others read.
type lockedFS struct {
	mu  *sync.Mutex
	dir fstest.MapFS
}

func (f lockedFS) Open(name string) (fs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dir.Open(name)
}

// writeClientXML puts the documents of secrets, processors and limits into the testbed's directory, for scripts.
func (b *testbed) writeClientXML(t testing.TB) {
	t.Helper()
	secret := func(name, attrs, id, usage string) {
		b.write(t, name, "<secret "+attrs+"><uuid>33333333-0000-4000-8000-00000000000"+id+"</uuid><description>of a test</description>"+usage+"</secret>\n")
	}
	volume := "<usage type='volume'><volume>/srv/a.img</volume></usage>"
	ceph := "<usage type='ceph'><name>client.admin secret</name></usage>"
	secret("secret.xml", "ephemeral='no' private='no'", "1", volume)
	secret("secret-clash.xml", "", "3", volume)
	secret("secret-other-use.xml", "", "1", ceph)
	secret("secret-private.xml", "ephemeral='yes' private='yes'", "2", ceph)
	secret("secret-not-private.xml", "ephemeral='yes' private='no'", "2", ceph)
	secret("secret-bad-use.xml", "", "4", "<usage type='door'/>")
	secret("secret-no-path.xml", "", "4", "<usage type='volume'/>")
	for name, text := range map[string]string{
		"small":   "<cpu><arch>x86_64</arch><model>Opteron_G2</model></cpu>",
		"same":    "<cpu mode='custom' match='exact'><model>EPYC</model></cpu>",
		"more":    "<cpu><arch>x86_64</arch><model>EPYC-Rome</model></cpu>",
		"intel":   "<cpu><arch>x86_64</arch><model>Nehalem</model><vendor>Intel</vendor></cpu>",
		"unknown": "<cpu><arch>x86_64</arch><model>Z80</model></cpu>",
		"extra":   "<cpu mode='custom'><model>EPYC</model><feature policy='disable' name='svm'/></cpu>",
		"two":     "<cpu><arch>x86_64</arch><model>EPYC</model><feature name='x'/></cpu><cpu><arch>x86_64</arch><model>EPYC-Rome</model><feature name='x'/></cpu>",
		"mixed":   "<cpu><arch>x86_64</arch><model>EPYC</model></cpu><cpu><arch>x86_64</arch><model>Nehalem</model></cpu>",
	} {
		b.write(t, "cpu-"+name+".xml", text+"\n")
	}
	b.write(t, "tuned.xml", `<domain type='kvm'>
  <name>tuned</name>
  <memory>65536</memory>
  <blkiotune><weight>500</weight><device><path>/dev/sda</path><weight>300</weight></device></blkiotune>
  <memtune><soft_limit unit='MiB'>64</soft_limit></memtune>
  <cputune><shares>2048</shares><emulatorpin cpuset='0-1'/></cputune>
  <numatune><memory mode='preferred' nodeset='0'/></numatune>
  <os><type>hvm</type><kernel>/k</kernel></os>
</domain>
`)
}
