package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// A guest on a NAT network that is off: the domain starts it, the guest gets its lease from a stock DHCP client, finds names,
// pings the host, and reaches a machine of another network, which sees the host's address.
func TestLabVirtualNetwork(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.Virsh)
	h := startHost(t)
	for _, args := range []string{"netns add world", "link add up0 type veth peer name eth0 netns world", "addr add 192.0.2.1/24 dev up0", "link set up0 up",
		"-n world addr add 192.0.2.2/24 dev eth0", "-n world link set eth0 up"} {
		h.ip(strings.Fields(args)...)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", "world").Run() })
	world := exec.Command("ip", "netns", "exec", "world", "socat", "TCP-LISTEN:80,fork", "SYSTEM:echo seen as $SOCAT_PEERADDR")
	if err := world.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Process.Kill(); world.Wait() })
	h.virsh("net-define", h.file("net.xml", `<network><name>lab</name><forward/><bridge name='labnat0' stp='off'/><domain name='lab.example' localOnly='yes'/>
<dns><host ip='10.93.0.1'><hostname>gw</hostname></host></dns>
<ip address='10.93.0.1' prefix='24'><dhcp><range start='10.93.0.50' end='10.93.0.99'/></dhcp></ip></network>`))
	k := labtest.Kernel("6.1")
	name := h.define(guest{name: "natted", kernel: k, memory: 512, args: "lab.net=eth0:dhcp",
		initrd: labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": `
ip -4 -o addr show dev eth0
ping -c 2 -W 5 10.93.0.1 && echo "host ping ok"
busybox nslookup gw.lab.example 10.93.0.1
exec 5<>/dev/tcp/192.0.2.2/80; read -r x <&5; echo "world: $x"
echo "all said"
sleep 600
`}),
		devices: "<interface type='network'><mac address='52:54:00:93:00:01'/><source network='lab'/><model type='virtio'/><driver name='qemu'/></interface>"})
	h.vctl("start", name)
	h.expect(name, "all said", 200*time.Second)
	said := h.output(name)
	for _, want := range []string{"inet 10.93.0.", "host ping ok", "Address: 10.93.0.1", "world: seen as 192.0.2.1"} {
		if !strings.Contains(strings.ReplaceAll(said, "Address 1:", "Address:"), want) {
			t.Errorf("the guest did not say %q:\n%s", want, tail(said, 3000))
		}
	}
	if got := h.virsh("domifaddr", name); !strings.Contains(got, "52:54:00:93:00:01") || !strings.Contains(got, "10.93.0.") {
		t.Errorf("domifaddr:\n%s", got)
	}
	if got := h.virsh("dumpxml", name); !strings.Contains(got, "bridge='labnat0'/>") {
		t.Errorf("dumpxml:\n%s", got)
	}
	h.virsh("destroy", name)
	h.virsh("undefine", name)
	h.virsh("net-destroy", "lab")
	h.virsh("net-undefine", "lab")
	if out, err := exec.Command("ip", "link", "show", "labnat0").CombinedOutput(); err == nil {
		t.Errorf("the bridge is left: %s", out)
	}
}
