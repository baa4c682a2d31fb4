package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/dhcp"
	"virtd/network/portconf"
)

// TestNetCommands is one day of a network, as TestCommands is one of a domain.
func TestNetCommands(t *testing.T) {
	b := newBed(t)
	id := uuid.MustParse("33333333-4444-4555-8666-777777777777")
	b.netHost.SetFunctions("enp1s0", portconf.Function{Bus: 1, Slot: 16}, portconf.Function{Bus: 1, Slot: 16, Number: 2}, portconf.Function{Bus: 1, Slot: 16, Number: 4})
	xml := filepath.Join(b.dir, "net.xml")
	text := "<network><name>x</name><uuid>" + id.String() + "</uuid><ip address='10.7.0.1' prefix='24'><dhcp><range start='10.7.0.2' end='10.7.0.9'/></dhcp></ip></network>"
	if err := os.WriteFile(xml, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.netHost.SetLeases(id, []dhcp.Lease{{IP: netip.MustParseAddr("10.7.0.2"), Bits: 24, MAC: "52:54:00:00:00:01", Name: "web", Expires: time.Unix(2000000000, 0)}})
	for _, c := range []struct {
		line   string
		status int
		prints string
	}{
		{"net list --all", 0, `^ Name   State   Autostart   Persistent   Bridge\n-+\n$`},
		{"net create lab --nat 10.9.0.0/24 --domain lab.example", 0, `^Network 'lab' created; `},
		{"net create lab --nat 10.8.0.0/24", 1, `^error: failed to define network 'lab': .*network 'lab' already exists with uuid`},
		{"net create more --nat 10.9.0.128/25", 1, `'more' is defined, but cannot be started: .*already in use by interface virbr0`},
		{"net create a --nat 10.1.0.0/24 --route 10.2.0.0/24", 1, `--nat and --route exclude each other`},
		{"net create a", 1, `say what kind of network`},
		{"net create a --nat ten", 1, `'ten' is not a subnet`},
		{"net create a --nat 10.0.0.0/8", 1, `from 16 to 29 bits`},
		{"net create a b --nat 10.1.0.0/24", 1, `^error: command 'net create': unexpected operand 'b'; see vctl net create --help\n$`},
		{"net create six --isolated fd00:7::/64", 0, `created`},
		{"net dumpxml lab", 0, `<ip address='10.9.0.1' prefix='24'>\n +<dhcp>\n +<range start='10.9.0.2' end='10.9.0.254'/>`},
		{"net dumpxml six --inactive", 0, `<ip family='ipv6' address='fd00:7::1' prefix='64'/>`},
		{"net list", 0, `\n lab    active   yes         yes          virbr0\n`},
		{"net info lab", 0, `Name: +lab\n(.*\n)*Bridge: +virbr0\n$`},
		{"net info nobody", 1, `failed to get network 'nobody': .*no network with matching name`},
		{"net define " + xml, 0, `Network 'x' defined from`},
		{"net start x", 0, `Network 'x' started`},
		{"net start x", 1, `failed to start network 'x': .*already active`},
		{"net leases x", 0, ` 10.7.0.2/24   52:54:00:00:00:01   web        2033-05-1`},
		{"net autostart x", 0, `changed`},
		{"net autostart x --disable", 0, `changed`},
		{"net update x delete ip-dhcp-host <host/> --live", 1, `failed to update network 'x'`},
		{"net update x add ip-dhcp-host <host_mac='52:54:00:00:00:01'_ip='10.7.0.20'/> --live --config", 0, `updated`},
		{"net update x burn dns-host <host/>", 1, `use add, add-first, modify or delete`},
		{"net update x add dns-cat <host/>", 1, `use ip-dhcp-host`},
		{"net update x add", 1, `requires <section> and <xml>`},
		{"net update x add portgroup <portgroup_name='red'/> --live --config", 0, `updated`},
		{"net dumpxml x", 0, `<portgroup name='red'`},
		{"net dumpxml x", 0, `<host mac='52:54:00:00:00:01' ip='10.7.0.20'/>`},
		{"net destroy x", 0, `destroyed`},
		{"net leases x", 1, `network 'x' is not active`},
		{"net undefine x", 0, `undefined`},
		{"net create fast --vf-pool enp1s0", 0, `^Network 'fast' created; `},
		{"net create slow --vf-pool eth9", 1, `'slow' is defined, but cannot be started: .*no PCI card with the interface 'eth9'`},
		{"net undefine slow", 0, `undefined`},
		{"net list --all", 0, `\n fast   active     yes         yes +\n`},
		{"net info fast", 0, `Forward: +hostdev\nCard: +enp1s0\nFunctions: +0000:01:10.0 \(domain demo\), 0000:01:10.2 \(port of appliance\), 0000:01:10.4 \(free\)\n$`},
		{"net dumpxml fast --inactive", 0, `<forward mode='hostdev' managed='yes'>\n +<driver name='vfio'/>\n +<pf dev='enp1s0'/>\n +</forward>`},
		{"net nonsense", 1, `^error: unknown command: 'net nonsense'; vctl net --help`},
	} {
		if c.line == "net info fast" {
			b.takeFunctions("fast")
		}
		args := strings.Fields(c.line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "_", " ")
		}
		stdout, stderr, status := b.run("", args...)
		got := stdout
		if c.status != 0 {
			got = stderr
		}
		if status != c.status || !regexp.MustCompile(c.prints).MatchString(got) {
			t.Errorf("vctl %s: status %d, want %d and %q\nstdout: %s\nstderr: %s", c.line, status, c.status, c.prints, stdout, stderr)
		}
	}
	out, stderr, _ := b.run("", "-o", "json", "net", "list", "--all")
	var nets []netDescription
	if err := json.Unmarshal([]byte(out), &nets); err != nil || len(nets) != 4 || nets[1].Name != "lab" || nets[1].Bridge != "virbr0" {
		t.Errorf("%v %+v %s", err, nets, stderr)
	}
}

// takeFunctions gives a function of a pool to a domain, and the next to a client.
func (b *bed) takeFunctions(pool string) {
	b.t.Helper()
	demo := network.Owner{Name: "demo", UUID: uuid.MustParse("22222222-4444-4555-8666-777777777777")}
	document := "<domain type='kvm'><name>demo</name><uuid>" + demo.UUID.String() + "</uuid><memory unit='MiB'>64</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>"
	if _, stderr, status := b.run(document, "define", "-"); status != 0 {
		b.t.Fatal(stderr)
	}
	if _, err := b.nets.Connect(network.Request{Network: pool, Owner: demo, MAC: "52:54:00:00:00:01"}); err != nil {
		b.t.Fatal(err)
	}
	n, err := b.nets.LookupByName(pool)
	if err == nil {
		_, err = n.CreatePort("<networkport><owner><name>appliance</name><uuid>"+uuid.NewString()+"</uuid></owner><mac address='52:54:00:00:00:02'/></networkport>", 0)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}
