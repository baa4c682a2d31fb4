package network_test

import (
	"cmp"
	"flag"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"virtd/network"
	"virtd/network/networktest"
	"virtd/virterr"
)

var update = flag.Bool("update", false, "write goldens again")

// openManager returns a manager over a host without anything, which ends with the test.
func openManager(t testing.TB, host network.Host, dir string) *network.Manager {
	t.Helper()
	m, err := network.Open(network.Config{
		State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), Host: host, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// documents are those of xml/testdata/network as users write them, by name.
func documents(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../xml/testdata/network/*.xml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	out := map[string]string{}
	for _, f := range files {
		if strings.HasSuffix(f, ".golden.xml") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".xml")] = string(text)
	}
	return out
}

// TestNetworkGolden: what is printed of a definition is in libvirt's form, valid by its schema, and reads back as itself.
func TestNetworkGolden(t *testing.T) {
	schema := filepath.Join(cmp.Or(os.Getenv("LIBVIRT_SCHEMAS"), "/usr/share/libvirt/schemas"), "network.rng")
	xmllint, missing := exec.LookPath("xmllint")
	for name, text := range documents(t) {
		m := openManager(t, &networktest.Fake{}, t.TempDir())
		n, err := m.Define(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := n.XML(true)
		if err != nil {
			t.Fatal(err)
		}
		path := "../xml/testdata/network/" + name + ".golden.xml"
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || string(want) != got {
			t.Errorf("%s (go test ./network -update, then read the diff): %v\n%s", path, err, got)
		}
		again, err := m.Define(got)
		if err != nil {
			t.Errorf("%s does not read back: %v", name, err)
			continue
		}
		if second, _ := again.XML(true); second != got {
			t.Errorf("%s changes when it is defined again:\n%s", name, second)
		}
		if _, err := os.Stat(schema); err != nil || missing != nil {
			continue
		}
		if out, err := exec.Command(xmllint, "--noout", "--nonet", "--relaxng", schema, path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// network wraps elements into a document.
func document(inside string) string { return "<network><name>n</name>" + inside + "</network>" }

// TestBadNetworks: what cannot be had is refused, saying what and where.
func TestBadNetworks(t *testing.T) {
	const ip = "<ip address='10.9.0.1' netmask='255.255.255.0'><dhcp>"
	for _, c := range []struct {
		text string
		code virterr.Code
		says string
	}{
		{"<domain/>", virterr.XMLError, "unexpected root element <domain>, expecting <network>"},
		{"<network/>", virterr.XMLError, "missing network name"},
		{"<network><name>a/b</name></network>", virterr.XMLError, "name a/b cannot contain '/'"},
		{document("<uuid>x</uuid>"), virterr.XMLError, "malformed uuid"},
		{document("<mac address='01:00:00:00:00:01'/>"), virterr.XMLError, "Invalid bridge mac address"},
		{document("<name>m</name>"), virterr.XMLError, "element <name> is given twice"},
		{document("<what/>"), virterr.ConfigUnsupported, "<what> in <network> is not supported"},
		{document("<bridge name='b' fast='yes'/>"), virterr.ConfigUnsupported, "attribute fast='yes'"},
		{document("<bridge name='averyverylongname'/>"), virterr.XMLError, "not the name of a network link"},
		{document("<bridge name='a%db%d'/>"), virterr.XMLError, "with a single %d"},
		{document("<mtu size='9'/>"), virterr.XMLError, "from 68 to 65535"},
		{document("<forward mode='hostdev'/>"), virterr.XMLError, "needs virtual functions"},
		{document("<forward mode='hostdev' dev='eth0'/>"), virterr.XMLError, "takes no interfaces"},
		{document("<forward mode='hostdev'><interface dev='eth0'/></forward>"), virterr.XMLError, "takes no interfaces"},
		{document("<forward mode='hostdev'><pf/></forward>"), virterr.XMLError, "Missing required dev attribute in <pf>"},
		{document("<forward mode='hostdev'><pf dev='a/b'/></forward>"), virterr.XMLError, "is not the name of a network link"},
		{document("<forward mode='hostdev'><pf dev='a'/><pf dev='b'/></forward>"), virterr.XMLError, "<pf> is given twice"},
		{document("<forward mode='hostdev' managed='maybe'><pf dev='a'/></forward>"), virterr.XMLError, "managed='maybe' must be yes or no"},
		{document("<forward mode='hostdev'><driver name='kvm'/><pf dev='a'/></forward>"), virterr.ConfigUnsupported, "driver name 'kvm' is not supported"},
		{document("<forward mode='hostdev'><address type='usb' bus='1'/></forward>"), virterr.XMLError, "must be pci"},
		{document("<forward mode='hostdev'><address type='pci'/></forward>"), virterr.XMLError, "says no address"},
		{document("<forward mode='hostdev'><address type='pci' bus='300'/></forward>"), virterr.XMLError, "Invalid PCI address bus='300'"},
		{document("<forward mode='hostdev'><address type='pci' bus='1'/><address type='pci' bus='0x1'/></forward>"), virterr.XMLError, "0000:01:00.0 is given twice"},
		{document("<forward mode='hostdev'><pf dev='a'/></forward><bridge name='br0'/>"), virterr.XMLError, "bridge name not allowed in hostdev mode"},
		{document("<forward mode='hostdev'><pf dev='a'/></forward><ip address='10.0.0.1' prefix='24'/>"), virterr.ConfigUnsupported, "Unsupported <ip> element"},
		{document("<forward mode='hostdev'><pf dev='a'/></forward><port isolated='yes'/>"), virterr.ConfigUnsupported, "isolated ports are not possible"},
		{document("<forward mode='hostdev'><pf dev='a'/></forward><bandwidth><inbound average='1'/></bandwidth>"), virterr.ConfigUnsupported, "Unsupported network-wide <bandwidth>"},
		{document("<forward mode='hostdev'><pf dev='a'/></forward><vlan trunk='yes'><tag id='1'/></vlan>"), virterr.ConfigUnsupported, "vlan trunking is not supported"},
		{document("<forward mode='hostdev'><pf dev='a'/></forward><portgroup name='g'><bandwidth><inbound average='1'/></bandwidth></portgroup>"), virterr.ConfigUnsupported, "in portgroup 'g' with forward mode='hostdev'"},
		{document("<forward mode='hostdev'><pf dev='a'/></forward><portgroup name='g'><vlan><tag id='1'/><tag id='2'/></vlan></portgroup>"), virterr.ConfigUnsupported, "portgroup 'g' of network"},
		{document("<forward mode='vepa'><pf dev='eth0'/></forward>"), virterr.ConfigUnsupported, "<pf> is for forward mode 'hostdev', not 'vepa'"},
		{document("<forward mode='teleport'/>"), virterr.XMLError, "unknown forwarding type 'teleport'"},
		{document("<forward mode='bridge'/>"), virterr.ConfigUnsupported, "needs the name of an existing bridge"},
		{document("<forward mode='bridge'><interface dev='eth0'/></forward><bridge name='br0'/>"), virterr.XMLError, "a bridge name or a forward dev, but not both"},
		{document("<forward mode='vepa' dev='eth0'/><bridge name='br0'/>"), virterr.XMLError, "bridge name not allowed in vepa mode (network 'n')"},
		{document("<forward mode='passthrough'/>"), virterr.XMLError, "needs the host's links"},
		{document("<forward mode='private'><interface dev='eth0'/><interface dev='eth0'/></forward>"), virterr.XMLError, "'eth0' is given twice"},
		{document("<forward mode='private'><interface/></forward>"), virterr.XMLError, "Missing required dev attribute"},
		{document("<forward mode='private' dev='eth1'><interface dev='eth0'/></forward>"), virterr.XMLError, "must match first interface element dev 'eth0'"},
		{document("<forward mode='bridge' dev='eth0'/>" + ip + "</dhcp></ip>"), virterr.ConfigUnsupported, "Unsupported <ip> element in network n with forward mode='bridge'"},
		{document("<forward mode='bridge' dev='eth0'/><port isolated='yes'/>"), virterr.ConfigUnsupported, "mode='private'"},
		{document(hostMetadata("192.0.2.5/24", "") + "<forward mode='vepa' dev='eth0'/>"), virterr.ConfigUnsupported, "forward mode 'bridge' only, not 'vepa'"},
		{document(hostMetadata("192.0.2.5", "") + "<forward mode='bridge' dev='eth0'/>"), virterr.XMLError, "'192.0.2.5' in network 'n' is none with a length"},
		{document(hostMetadata("192.0.2.5/24", "192.0.3.0/28") + "<forward mode='bridge' dev='eth0'/>"), virterr.XMLError, "'192.0.3.0/28' in network 'n' are not a part of 192.0.2.0/24"},
		{document("<forward mode='bridge'/><bridge name='br0'/>" + ip + "</dhcp></ip>"), virterr.ConfigUnsupported, "Unsupported <ip> element"},
		{document("<forward mode='route'><nat/></forward>"), virterr.XMLError, "only for forward mode 'nat'"},
		{document("<forward><nat><port start='9' end='2'/></nat></forward>"), virterr.XMLError, "reversed"},
		{document("<forward><nat><address start='::1' end='::2'/></nat></forward>"), virterr.XMLError, "IPv4 address is needed"},
		{document("<ip address='10.9.0.1' netmask='255.0.255.0'/>"), virterr.XMLError, "Invalid netmask '255.0.255.0'"},
		{document("<ip address='10.9.0.1' prefix='33'/>"), virterr.XMLError, "Invalid prefix '33'"},
		{document("<ip address='10.9.0.1' prefix='8' netmask='255.0.0.0'/>"), virterr.XMLError, "both a prefix and netmask"},
		{document("<ip address='fd00::1'/>"), virterr.XMLError, "no family specified for non-IPv4 address"},
		{document("<ip address='10.9.0.1' prefix='16'/><ip address='10.9.9.1' prefix='24'/>"), virterr.XMLError, "overlaps"},
		{document(ip + "<range start='10.9.0.9' end='10.9.0.2'/></dhcp></ip>"), virterr.XMLError, "range 10.9.0.9 - 10.9.0.2 is reversed"},
		{document(ip + "<range start='10.9.0.9' end='10.9.1.2'/></dhcp></ip>"), virterr.XMLError, "is not entirely within network 10.9.0.1/24"},
		{document(ip + "<range start='10.9.0.0' end='10.9.0.2'/></dhcp></ip>"), virterr.XMLError, "broadcast address"},
		{document(ip + "<range start='10.9.0.2'/></dhcp></ip>"), virterr.XMLError, "Missing 'end' attribute"},
		{document(ip + "<range start='10.9.0.2' end='10.9.0.3'><lease expiry='1'/></range></dhcp></ip>"), virterr.XMLError, "minimum lease time"},
		{document(ip + "<host mac='52:54:00:00:00:01'/></dhcp></ip>"), virterr.XMLError, "Missing IP address in static host definition"},
		{document(ip + "<host mac='52:54:00:00:00:01' ip='10.9.0.1'/></dhcp></ip>"), virterr.XMLError, "not one that guests can have"},
		{document(ip + "<host mac='5:54' ip='10.9.0.4'/></dhcp></ip>"), virterr.XMLError, "Cannot parse MAC address '5:54'"},
		{document(ip + "</dhcp></ip>" + strings.ReplaceAll(ip, "10.9.0", "10.8.0") + "</dhcp></ip>"), virterr.ConfigUnsupported, "Multiple IPv4 dhcp sections"},
		{document("<ip address='10.0.0.1' prefix='8'><dhcp><range start='10.0.0.2' end='10.255.255.254'/></dhcp></ip>"), virterr.ConfigUnsupported, "more than 65536 addresses"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><dhcp/></ip><ip family='ipv6' address='fd01::1' prefix='64'><dhcp/></ip>"), virterr.ConfigUnsupported, "Multiple IPv6 dhcp sections found"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd01::2' end='fd01::9'/></dhcp></ip>"), virterr.XMLError, "is not entirely within network fd00::1/64"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::2' end='fd00::2:0:2'/></dhcp></ip>"), virterr.ConfigUnsupported, "more than 65536 addresses"},
		{document("<ip family='ipv6' address='fd00::1' prefix='48'><dhcp><range start='fd00::2' end='fd00::1:0:0:0:2'/></dhcp></ip>"), virterr.ConfigUnsupported, "more than 65536 addresses"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::' end='fd00::9'/></dhcp></ip>"), virterr.XMLError, "the address of all routers"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='10.0.0.1' end='10.0.0.2'/></dhcp></ip>"), virterr.XMLError, "cannot parse dhcp range start address '10.0.0.1'"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host mac='52:54:00:00:00:01' ip='fd00::5'/></dhcp></ip>"), virterr.XMLError, "Invalid to specify MAC address '52:54:00:00:00:01'"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><bootp file='x'/></dhcp></ip>"), virterr.ConfigUnsupported, "<bootp> is for IPv4"},
		{document("<ip address='10.9.0.1' prefix='24'><tftp root='srv'/></ip>"), virterr.XMLError, "tftp root 'srv' in network 'n' is not an absolute path"},
		{document("<ip address='10.9.0.1' prefix='24'><tftp/></ip>"), virterr.XMLError, "Missing mandatory root attribute in <tftp> element in network 'n'"},
		{document("<ip family='ipv6' address='fd00::1' prefix='64'><tftp root='/srv'/></ip>"), virterr.ConfigUnsupported, "Unsupported <tftp> element in an IPv6 element in network 'n'"},
		{document("<ip address='10.9.0.1' prefix='24'/><route address='10.1.0.0' prefix='16' gateway='10.8.0.2'/>"), virterr.XMLError, "unreachable static route gateway"},
		{document("<domain name='bad name'/>"), virterr.XMLError, "not a domain name"},
		{document("<domain name='x' register='yes'/>"), virterr.ConfigUnsupported, "register"},
		{document("<dns><host ip='10.1.1.1'/></dns>"), virterr.XMLError, "Missing hostname in network DNS HOST record"},
		{document("<dns><txt name='a b' value='x'/></dns>"), virterr.XMLError, "prohibited space character"},
		{document("<dns><srv service='x' protocol='sctp'/></dns>"), virterr.XMLError, "Invalid protocol attribute value 'sctp'"},
		{document("<dns><forwarder/></dns>"), virterr.XMLError, "at least one of 'addr' and 'domain'"},
		{"<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><dnsmasq:options/></network>", virterr.ConfigUnsupported, "there is no dnsmasq"},
	} {
		m := openManager(t, &networktest.Fake{}, t.TempDir())
		_, err := m.Define(c.text)
		if err == nil || !virterr.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s\n%v, want code %d and %q", c.text, err, c.code, c.says)
		}
		if len(m.List(0)) != 0 {
			t.Errorf("%s left a network", c.text)
		}
	}
}

// FuzzNetwork: no document makes the manager panic, and what it takes reads back as itself.
func FuzzNetwork(f *testing.F) {
	for _, text := range documents(f) {
		f.Add(text)
	}
	f.Add(document("<ip address='0.0.0.0' prefix='0'><dhcp><range start='0.0.0.1' end='0.0.0.9'/></dhcp></ip>"))
	host := &networktest.Fake{}
	m := openManager(f, host, f.TempDir())
	f.Fuzz(func(t *testing.T, text string) {
		n, err := m.Define(text)
		if err != nil {
			return
		}
		first, err := n.XML(true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Define(first); err != nil {
			t.Errorf("does not read back: %v\n%s", err, first)
		}
		if second, _ := n.XML(true); second != first {
			t.Errorf("is not stable:\n%s\n%s", first, second)
		}
		if err := n.Undefine(); err != nil {
			t.Error(err)
		}
	})
}

// hostMetadata asks for the host's part in a pool of links.
func hostMetadata(address, guests string) string {
	return "<metadata><v:host xmlns:v='https://virtd/xmlns/network/1.0' address='" + address + "' guests='" + guests + "'/></metadata>"
}
