package e2e

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// What an interface may carry: rates both ways, which are told by how long a transfer takes at least, and a filter, which stops
// another's address. Both survive virtd and somebody's flush, change while the guest runs, and are gone with it.
func TestLabInterfaceLimits(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.Virsh, labtest.Program("nft"), labtest.Program("tc"))
	h := startHost(t)
	h.bridge("virtdbr2", "10.95.0.1/24")
	const size, rate, burst = 2 << 20, 400, 32 // bytes, kilobytes a second, kibibytes
	s := startFileServer(t, size)
	k := labtest.Kernel("6.1")
	script := fmt.Sprintf(`
ping -c 1 -W 10 10.95.0.1 >/dev/null && echo "own address ok"
ip addr add 10.95.0.99/24 dev eth0
ping -c 2 -W 2 -I 10.95.0.99 10.95.0.1 >/dev/null || echo "stolen address stopped"
timed() { a=${EPOCHREALTIME/./}; "${@:2}"; b=${EPOCHREALTIME/./}; echo "$1 $(( (b-a)/1000 )) ms"; }
%[2]s
timed down fetch 10.95.0.1
timed up push 10.95.0.1
echo "transfers done"
exec 5<>/dev/tcp/10.95.0.1/%[1]d; echo wait >&5; read -r x <&5 || true
ping -c 1 -W 5 -I 10.95.0.99 10.95.0.1 >/dev/null && echo "any address now"
echo "all said"
sleep 600
`, s.port, s.shell())
	name := h.define(guest{name: "limits", kernel: k, memory: 512, args: "lab.net=eth0:10.95.0.2/24",
		initrd: labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": script}),
		devices: fmt.Sprintf(`<interface type='bridge'><mac address='52:54:00:95:00:02'/><source bridge='virtdbr2'/><model type='virtio'/>
<bandwidth><inbound average='%[1]d' burst='%[2]d'/><outbound average='%[1]d' burst='%[2]d'/></bandwidth>
<filterref filter='clean-traffic'><parameter name='IP' value='10.95.0.2'/></filterref></interface>`, rate, burst)})
	h.vctl("start", name)
	h.expect(name, "transfers done", 280*time.Second)
	said := h.output(name)
	for _, want := range []string{"own address ok", "stolen address stopped"} {
		if !strings.Contains(said, want) {
			t.Errorf("the guest did not say %q:\n%s", want, tail(said, 3000))
		}
	}
	// What is sent on top of the rate is the burst, and what sockets and queues hold when the sender is done.
	least := (size - (burst<<10 + 512<<10)) / rate
	for _, way := range []string{"down", "up"} {
		if took := field(t, said, way+` (\d+) ms`); took < least {
			t.Errorf("%s took %d ms, less than the %d that the rate takes", way, took, least)
		}
	}
	tap := regexp.MustCompile(`vnet\d+`).FindString(h.virsh("domiflist", name))
	queues := func() string {
		return h.sh("tc qdisc show dev " + tap + "; tc class show dev " + tap + "; tc filter show dev " + tap + " ingress")
	}
	filtered := func() bool {
		out, err := exec.Command("nft", "list", "ruleset", "bridge").CombinedOutput()
		return err == nil && strings.Contains(string(out), "from_"+tap) && strings.Contains(string(out), "jump mac_"+tap)
	}
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	if q := queues(); !strings.Contains(q, "htb") || !strings.Contains(q, "police") || !filtered() {
		t.Errorf("after a restart of virtd:\n%s", q)
	}
	h.sh("nft flush $(nft list tables bridge | grep ' virtd-')") // the rules, not the table
	h.until(10*time.Second, "the filter's rules after a flush", filtered)
	h.sh("nft flush ruleset")
	h.until(10*time.Second, "the filter after a flush", filtered)
	h.virsh("domiftune", name, tap, "--outbound", "0", "--live")
	if q := queues(); !strings.Contains(q, "htb") || strings.Contains(q, "police") {
		t.Errorf("after the limit of one way was taken away:\n%s", q)
	}
	h.virsh("update-device", name, h.file("free.xml", "<interface type='bridge'><mac address='52:54:00:95:00:02'/><source bridge='virtdbr2'/><model type='virtio'/></interface>"), "--live")
	if q := queues(); strings.Contains(q, "htb") || filtered() {
		t.Errorf("after the update:\n%s", q)
	}
	h.refuses("referenced filter 'mine' is missing", "virsh", "update-device", name, h.file("mine.xml",
		"<interface type='bridge'><mac address='52:54:00:95:00:02'/><source bridge='virtdbr2'/><model type='virtio'/><filterref filter='mine'/></interface>"), "--live")
	s.release()
	h.expect(name, "all said", 100*time.Second)
	if said := h.output(name); !strings.Contains(said, "any address now") {
		t.Errorf("the filter is still in force:\n%s", tail(said, 2000))
	}
	h.virsh("update-device", name, h.file("filtered.xml",
		"<interface type='bridge'><mac address='52:54:00:95:00:02'/><source bridge='virtdbr2'/><model type='virtio'/><filterref filter='no-mac-spoofing'/></interface>"), "--live")
	if !filtered() {
		t.Error("no filter after it was set again")
	}
	h.virsh("destroy", name)
	if filtered() {
		t.Error("the filter outlives the guest")
	}
	h.virsh("undefine", name)
}
