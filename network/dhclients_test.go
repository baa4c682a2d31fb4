package network_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
	"virtd/network"
)

const clientsXML = `<network><name>clients</name><forward/><bridge name='tbrcl' stp='off'/><domain name='lab.example' localOnly='yes'/>
<ip address='10.89.0.1' prefix='24'><dhcp><range start='10.89.0.50' end='10.89.0.60'/></dhcp></ip>
<ip family='ipv6' address='fd89::1' prefix='64'><dhcp><range start='fd89::100' end='fd89::1ff'/></dhcp></ip></network>`

// TestLabDHCPClients: the DHCP clients that distributions have, on taps: busybox's udhcpc, ISC's dhclient and systemd-networkd.
// Each gets addresses of the families that it speaks, with the router, resolver and domain, and is on the list by its name.
func TestLabDHCPClients(t *testing.T) {
	const networkd = "/usr/lib/systemd/systemd-networkd"
	labtest.Need(t, labtest.Tun, labtest.Program("udhcpc"), labtest.Program("dhclient"), labtest.Program(networkd), labtest.Program("unshare"))
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	n, err := m.Create(clientsXML)
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	for i, c := range []struct {
		name, script string
		six          bool
	}{
		{"busybox", `udhcpc -i eth0 -n -q -f -t 20 -T 1 -x hostname:busybox -s ` + clientScript(t, dir), false},
		{"isc", `
printf 'send host-name "isc"; send fqdn.fqdn "isc";\n' >$DIR/isc.conf
for v in 4 6; do
  dhclient -$v -1 -d -cf $DIR/isc.conf -lf $DIR/$v.leases -pf $DIR/$v.pid -sf ` + clientScript(t, dir) + ` eth0 &
done
until [ "$(grep -c . $DIR/isc.said)" = 2 ]; do sleep 0.5; done 2>/dev/null`, true},
		{"networkd", `
grep -q ^systemd-network: /etc/passwd || echo systemd-network:x:998:998::/:/bin/false >>/etc/passwd
grep -q ^systemd-network: /etc/group || echo systemd-network:x:998: >>/etc/group
[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
unshare -m bash -ec '
mount --make-rprivate /
mount -t sysfs -o ro sysfs /sys # read-only: there is no udev to wait for
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/network /run/systemd/netif
printf "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n[DHCPv4]\nHostname=networkd\nClientIdentifier=mac\n[DHCPv6]\nHostname=networkd\n" >/run/systemd/network/eth0.network
exec ` + networkd + `' &
until [ "$(ip -o addr show dev eth0 scope global | grep -c dynamic)" = 2 ]; do sleep 0.5; done
ip -o addr show dev eth0 scope global | awk '{ print ($3 == "inet" ? "4" : "6"), $4 }' >$DIR/networkd.said
ip route show default | sed -n 's/.*via \([^ ]*\).*/route \1/p' >>$DIR/networkd.said`, true},
	} {
		if testing.Short() && i > 0 {
			break // the full run has all
		}
		t.Run(c.name, func(t *testing.T) {
			mac := fmt.Sprintf("52:54:00:00:89:%02x", i)
			g := plug(t, m, host, "clients", c.name, mac)
			g.run(t, waitLinkLocal)
			ok(t, os.WriteFile(filepath.Join(dir, "name"), []byte(c.name), 0o644))
			out := g.shell(t, dir, c.script)
			said, err := os.ReadFile(filepath.Join(dir, c.name+".said"))
			if err != nil || !strings.Contains(string(said), "4 10.89.0.") || strings.Contains(string(said), "6 fd89::1") != c.six || !strings.Contains(string(said), "10.89.0.1") {
				t.Errorf("got %q, %v\n%s", said, err, out)
			}
			checkLeased(t, n, mac, c.name, c.six)
		})
	}
}

// clientScript is what udhcpc and dhclient tell of their leases; it writes them down.
func clientScript(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "script")
	ok(t, os.WriteFile(path, []byte(`#!/bin/bash
name=$(cat `+dir+`/name)
[ -z "$ip" ] || echo "4 $ip $subnet $router $dns $domain" >>`+dir+`/$name.said
[ -z "$new_ip_address" ] || echo "4 $new_ip_address $new_subnet_mask $new_routers $new_domain_name_servers $new_domain_name" >>`+dir+`/$name.said
[ -z "$new_ip6_address" ] || echo "6 $new_ip6_address/$new_ip6_prefixlen $new_dhcp6_name_servers" >>`+dir+`/$name.said
exit 0
`), 0o755))
	return path
}

// shell runs a script in the guest, for two minutes at most, and ends whatever the script has started. It returns what all of
// them printed; whether they did what they should is for the caller to see.
func (g *guest) shell(t *testing.T, dir, script string) string {
	t.Helper()
	log, err := os.CreateTemp(dir, "client") // a file: programs that stay would keep a pipe open
	ok(t, err)
	defer log.Close()
	g.run(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "bash", "-c", script)
		cmd.Env = append(os.Environ(), "DIR="+dir)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		if err := cmd.Run(); err != nil {
			fmt.Fprintf(log, "the script: %v\n", err)
		}
		if err := cmd.Cancel(); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return nil
	})
	out, err := os.ReadFile(log.Name())
	ok(t, err)
	return string(out)
}

// checkLeased looks for a guest on the list of leases.
func checkLeased(t *testing.T, n *network.Network, mac, name string, six bool) {
	t.Helper()
	families := map[bool]bool{}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && (!families[false] || families[true] != six); time.Sleep(50 * time.Millisecond) {
		list, err := n.Leases()
		ok(t, err)
		for _, l := range list {
			if l.MAC == mac && l.Name == name {
				families[l.IP.Is6()] = true
			}
		}
	}
	if !families[false] || families[true] != six {
		list, _ := n.Leases()
		t.Errorf("leases of %s, %s: %+v", name, mac, list)
	}
}

// addressesOf lists what a network has leased, for messages.
func addressesOf(n *network.Network) []netip.Addr {
	list, _ := n.Leases()
	var out []netip.Addr
	for _, l := range list {
		out = append(out, l.IP)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
