package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

const (
	labNetXML = `<network><name>lab</name><forward/><bridge name='labnat0' stp='off'/><domain name='lab.example' localOnly='yes'/>
<dns><host ip='10.93.0.1'><hostname>gw</hostname></host></dns>
<ip address='10.93.0.1' prefix='24'><dhcp><range start='10.93.0.50' end='10.93.0.99'/>
<host mac='52:54:00:93:00:01' name='one' ip='10.93.0.11'/><host mac='52:54:00:93:00:02' name='two' ip='10.93.0.12'/></dhcp></ip>
<ip family='ipv6' address='fd93::1' prefix='64'/></network>`
	isoNetXML = `<network><name>iso</name><bridge name='labiso0' stp='off'/>
<bandwidth><inbound average='1000000'/></bandwidth>
<ip address='10.94.0.1' prefix='24'><dhcp><range start='10.94.0.50' end='10.94.0.99'/>
<host mac='52:54:00:94:00:01' ip='10.94.0.11'/><host mac='52:54:00:94:00:02' ip='10.94.0.12'/></dhcp></ip></network>`
	labPortID = "99999999-2222-4333-8444-000000000001"
)

// labPort is the document of a client's port.
func labPort(mac, inside string) string {
	return "<networkport><uuid>" + labPortID + "</uuid><owner><name>appliance</name><uuid>aaaaaaaa-2222-4333-8444-000000000001</uuid></owner>" +
		"<mac address='" + mac + "'/>" + inside + "</networkport>"
}

// onLabNets is a guest with a card on each network, the first guest's served by the engine, the second's by vhost-net.
func (h *host) onLabNets(k labtest.GuestKernel, i int, script string) string {
	driver := []string{"qemu", "vhost"}[i-1]
	nic := func(network, mac string) string {
		return fmt.Sprintf("<interface type='network'><mac address='%s:0%d'/><source network='%s'/><model type='virtio'/><driver name='%s'/></interface>",
			mac, i, network, driver)
	}
	return h.define(guest{name: []string{"one", "two"}[i-1], kernel: k, memory: 512, args: "lab.net=eth0:dhcp,eth1:dhcp",
		initrd:  labtest.AppendFiles(h.t, k.Tools, map[string]string{"cmd": script}),
		devices: nic("lab", "52:54:00:93:00") + nic("iso", "52:54:00:94:00")})
}

// Two guests on a NAT network and an isolated one, both off: the domains start them, the guests get their leases from a stock DHCP
// client, over taps and vhost-net, find names, and ping each other and the host; a machine of another network sees the host's
// address by the one, and is out of reach by the other. A ping goes on without a loss while virtd is killed and started, and a
// client's port keeps its floor; what somebody takes of the networks afterwards comes back.
func TestLabVirtualNetwork(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet, labtest.Virsh, labtest.Program("nft"), labtest.Program("tc"))
	h := startHost(t)
	for _, args := range []string{"netns add world", "link add up0 type veth peer name eth0 netns world", "addr add 192.0.2.1/24 dev up0", "link set up0 up",
		"-n world addr add 192.0.2.2/24 dev eth0", "-n world addr add 198.51.100.2/32 dev eth0", "-n world link set eth0 up",
		"-n world route add default via 192.0.2.1", "route add 198.51.100.2/32 via 192.0.2.2"} {
		h.ip(strings.Fields(args)...)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", "world").Run() })
	world := exec.Command("ip", "netns", "exec", "world", "socat", "TCP-LISTEN:80,fork", "SYSTEM:echo seen as $SOCAT_PEERADDR")
	if err := world.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Process.Kill(); world.Wait() })
	h.virsh("net-define", h.file("lab.xml", labNetXML))
	h.virsh("net-define", h.file("iso.xml", isoNetXML))
	k := labtest.Kernel("6.1")
	two := h.onLabNets(k, 2, `
ip -4 -o addr show
echo "two is there"
exec sleep 600
`)
	one := h.onLabNets(k, 1, `
ip -4 -o addr show
ping -c 2 -W 5 10.93.0.1 && echo "host ping ok"
for n in gw two; do busybox nslookup $n.lab.example 10.93.0.1; done
for a in 10.93.0.12 10.94.0.12; do ping -c 2 -W 5 $a && echo "$a ping ok"; done
exec 5<>/dev/tcp/192.0.2.2/80; read -r x <&5; echo "world: $x"
ip route add 198.51.100.2/32 via 10.94.0.1
timeout 10 bash -c 'exec 5<>/dev/tcp/198.51.100.2/80' && echo "a way out of the isolated network"
six=/proc/sys/net/ipv6/conf/eth0/disable_ipv6; echo 1 >$six; echo 0 >$six # the DHCP client's script took all addresses away
for i in $(seq 60); do six=$(ip -6 -o addr show dev eth0 scope global -tentative); [ -z "$six" ] || break; sleep 0.5; done
echo "six: $six"
ping -c 2 -W 5 fd93::1 && echo "host ping six ok"
echo "all said"
ping -c 50 -i 0.3 -W 10 192.0.2.2 | tail -3
echo "pinged"
exec sleep 600
`)
	h.vctl("start", two)
	h.expect(two, "two is there", 200*time.Second)
	h.virsh("net-port-create", "iso", h.file("port.xml", labPort("52:54:00:94:00:09", "<bandwidth><inbound floor='2000'/></bandwidth>")), "--validate")
	h.vctl("start", one)
	h.expect(one, "all said", 280*time.Second)
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	if strings.Contains(h.output(one), "pinged") {
		t.Error("the ping was over before virtd was back")
	}
	h.expect(one, "pinged", 100*time.Second)
	said := h.output(one)
	for _, want := range []string{"inet 10.93.0.11/", "inet 10.94.0.11/", "host ping ok", "Address: 10.93.0.1", "Address: 10.93.0.12", "10.93.0.12 ping ok", "10.94.0.12 ping ok",
		"world: seen as 192.0.2.1", "inet6 fd93::", "host ping six ok", "50 packets transmitted, 50 received"} {
		if !strings.Contains(strings.ReplaceAll(said, "Address 1:", "Address:"), want) {
			t.Errorf("the guest did not say %q:\n%s", want, tail(said, 3000))
		}
	}
	if strings.Contains(said, "a way out") {
		t.Errorf("the isolated network is not:\n%s", tail(said, 3000))
	}
	if got := h.virsh("domifaddr", one); !strings.Contains(got, "52:54:00:93:00:01") || !strings.Contains(got, "10.93.0.11") {
		t.Errorf("domifaddr:\n%s", got)
	}
	if got := h.virsh("dumpxml", two); !strings.Contains(got, "bridge='labnat0'/>") {
		t.Errorf("dumpxml:\n%s", got)
	}
	h.clientPort()
	h.damageNetworks()
	for _, name := range []string{one, two} {
		h.virsh("destroy", name)
		h.virsh("undefine", name)
	}
	for _, network := range []string{"lab", "iso"} {
		h.virsh("net-destroy", network)
		h.virsh("net-undefine", network)
	}
	if out, err := exec.Command("ip", "link", "show", "labnat0").CombinedOutput(); err == nil {
		t.Errorf("the bridge is left: %s", out)
	}
}

// clientPort removes the port that was made before virtd was killed, and whose floor the bridge still has.
func (h *host) clientPort() {
	h.t.Helper()
	floor := func() bool { return strings.Contains(h.sh("tc class show dev labiso0"), "htb 1:3 ") }
	if got := h.virsh("net-port-dumpxml", "iso", labPortID); !strings.Contains(got, "<plug type='network' bridge='labiso0'/>") || !floor() {
		h.t.Errorf("the client's port, with a floor %v:\n%s", floor(), got)
	}
	h.virsh("net-port-delete", "iso", labPortID)
	if got := h.virsh("net-port-list", "iso"); strings.Contains(got, labPortID) || floor() {
		h.t.Errorf("after the client's port was removed, with a floor %v:\n%s", floor(), got)
	}
}

// damageNetworks takes rules and a bridge away and waits until they are back.
func (h *host) damageNetworks() {
	h.t.Helper()
	filtered := func() bool {
		out, err := exec.Command("nft", "list", "ruleset", "inet").CombinedOutput()
		return err == nil && strings.Contains(string(out), "masquerade") && strings.Contains(string(out), `oifname "labiso0"`)
	}
	if !filtered() {
		h.t.Error("the networks have no rules")
	}
	h.sh("nft flush $(nft list tables inet | grep ' virtd-')") // the rules, not the table
	h.until(10*time.Second, "the networks' rules after a flush", filtered)
	h.ip("link", "del", "labnat0")
	h.until(30*time.Second, "the bridge after it was deleted", func() bool {
		return exec.Command("ping", "-c", "1", "-W", "1", "10.93.0.11").Run() == nil
	})
	h.until(30*time.Second, "leases after the bridge was deleted", func() bool {
		out, _, _ := h.try("virsh", "net-dhcp-leases", "lab")
		return strings.Contains(out, "10.93.0.12")
	})
}
