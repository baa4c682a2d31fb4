package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/lab/labtest"
)

// wire makes a link of the lab host, whose other end is eth0 of a network namespace that is called after it.
func (h *host) wire(name string, addresses ...string) {
	h.t.Helper()
	far := name + "-far"
	commands := []string{"netns add " + far, "link add " + name + " type veth peer name eth0 netns " + far, "link set " + name + " up", "-n " + far + " link set eth0 up"}
	for _, a := range addresses {
		commands = append(commands, "-n "+far+" addr add "+a+" dev eth0")
	}
	h.t.Cleanup(func() {
		exec.Command("ip", "link", "del", name).Run()
		exec.Command("ip", "netns", "del", far).Run()
	})
	for _, c := range commands {
		h.ip(strings.Fields(c)...)
	}
}

// listenAt listens in the namespace at the other end of a wire.
func listenAt(t *testing.T, wire string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread stays in the namespace and ends here
		fd, err := unix.Open("/run/netns/"+wire+"-far", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp4", ":0")
		done <- result{l, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.l
}

func direct(dev, mac, attributes, driver string) string {
	return fmt.Sprintf("<interface type='direct'%s><mac address='%s'/><source dev='%s' mode='bridge'/><model type='virtio'/><driver %s/></interface>", attributes, mac, dev, driver)
}

// A guest with two macvtaps, one served by the engine, which reports hashes, and one by the kernel's vhost-net, each with two queues: files both
// ways with a machine on the wire, a trusted receive filter, a device that comes and goes, a virtd that is killed, a link that
// vanishes, and nothing left behind.
func TestLabMacvtap(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.VhostNet, labtest.Virsh)
	h := startHost(t)
	h.wire("up0", "10.91.0.1/24", "10.92.0.1/24")
	h.wire("up1", "10.95.0.1/24")
	size := int64(100 << 20)
	if testing.Short() {
		size = 10 << 20
	}
	s := serveFiles(t, listenAt(t, "up0"), size)
	k := labtest.Kernel("6.1")
	const firstMAC, secondMAC = "52:54:00:91:00:02", "52:54:00:92:00:02"
	name := h.define(guest{name: "macvtap", kernel: k, memory: 512, vcpus: 2, args: "lab.net=eth0:10.91.0.2/24,eth1:10.92.0.2/24",
		initrd:  labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": macvtapScript(s)}),
		devices: direct("up0", firstMAC, "", "name='qemu' queues='2' rss_hash_report='on'") + direct("up0", secondMAC, " trustGuestRxFilters='yes'", "name='vhost' queues='2'")})
	h.vctl("start", name)
	h.expect(name, "traffic done", 280*time.Second)
	out := h.output(name)
	for _, want := range []string{"eth0 queues 2", "eth1 queues 2", "eth0 down " + s.sum, "eth1 down " + s.sum, "eth0 up", "eth1 up"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q on the console:\n%s", want, tail(out, 3000))
		}
	}
	s.checkPushed(t, 2)
	taps := h.checkMacvtaps(name)
	h.expect(name, "address changed", 60*time.Second)
	h.until(20*time.Second, "new address on the macvtap", func() bool {
		return strings.Contains(h.ip("link", "show", taps[1]), "52:54:00:aa:bb:cc")
	})
	h.expect(name, "ping with another address ok", 60*time.Second)
	if got := h.ip("link", "show", taps[0]); !strings.Contains(got, firstMAC) {
		t.Errorf("the macvtap of a guest that is not trusted:\n%s", got)
	}

	const thirdMAC = "52:54:00:95:00:02"
	limited := strings.Replace(direct("up1", thirdMAC, "", "name='qemu'"), "</interface>", "<bandwidth><inbound average='500'/><outbound average='300'/></bandwidth></interface>", 1)
	nic := h.file("nic.xml", limited)
	h.virsh("attach-device", name, nic)
	h.expect(name, "hotplugged ping ok", 60*time.Second)
	h.checkMacvtapRates(name, thirdMAC)
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	h.refuses("Unable to get index for interface up9", "virsh", "attach-device", name, h.file("bad.xml", direct("up9", "52:54:00:95:00:03", "", "name='qemu'")))
	h.virsh("detach-device", name, nic)
	h.until(30*time.Second, "end of the detached macvtap", func() bool { return !strings.Contains(h.ip("-o", "link"), "@up1") })

	h.ip("link", "del", "up0") // and with it the macvtaps
	h.expect(name, "cables pulled", 60*time.Second)
	if stats := h.virsh("domifstat", name, secondMAC); !strings.Contains(stats, "rx_bytes") {
		t.Errorf("domifstat of an interface without its device:\n%s", stats)
	}
	h.virsh("destroy", name)
	h.checkPassthroughPool(k)
	if left := macvtaps(h); len(left) != 0 {
		t.Errorf("macvtaps are left: %v", left)
	}
}

func macvtapScript(s *fileServer) string {
	return fmt.Sprintf(`
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
%s
for n in 1 2; do
  e=eth$((n-1))
  ethtool -L $e combined 2
  echo "$e queues $(ethtool -l $e | grep Combined | tail -1 | tr -dc 0-9)"
  ping -c 2 -i 0.3 -W 5 10.9$n.0.1 >/dev/null || echo "$e: no ping"
  echo "$e down $(fetch 10.9$n.0.1)"
  push 10.9$n.0.1 && echo "$e up"
done
echo "traffic done"
ip link set eth1 address 52:54:00:aa:bb:cc && echo "address changed"
until ping -c 1 -W 1 10.92.0.1 >/dev/null; do sleep 0.5; done
echo "ping with another address ok"
until [ -e /sys/class/net/eth2 ]; do sleep 0.2; done
ip addr add 10.95.0.2/24 dev eth2; ip link set eth2 up
until ping -c 1 -W 1 10.95.0.1 >/dev/null; do sleep 0.5; done
echo "hotplugged ping ok"
until [ "$(cat /sys/class/net/eth0/carrier)$(cat /sys/class/net/eth1/carrier)" = 00 ]; do sleep 0.2; done
echo "cables pulled"
sleep 600
`, s.shell())
}

// checkMacvtaps compares what virsh tells about the macvtaps of the domain, and returns their names.
func (h *host) checkMacvtaps(name string) (taps []string) {
	h.t.Helper()
	list := h.virsh("domiflist", name)
	for _, m := range regexp.MustCompile(`(?m)^ (macvtap\d+)\s+direct\s+up0\s+virtio\s+52:54:00:`).FindAllStringSubmatch(list, -1) {
		taps = append(taps, m[1])
		stats := h.virsh("domifstat", name, m[1])
		for _, key := range []string{"rx_bytes", "tx_bytes"} {
			if got := field(h.t, stats, m[1]+" "+key+` (\d+)`); got < 5<<20 {
				h.t.Errorf("%s of %s: %d", key, m[1], got)
			}
		}
	}
	if len(taps) != 2 {
		h.t.Fatalf("domiflist:\n%s", list)
	}
	xml := h.virsh("dumpxml", name)
	for _, want := range []string{"<source dev='up0' mode='bridge'/>", "<target dev='" + taps[0] + "'/>", "<driver name='qemu' queues='2' rss_hash_report='on'/>", "<driver name='vhost' queues='2'/>"} {
		if !strings.Contains(xml, want) {
			h.t.Errorf("no %s in:\n%s", want, xml)
		}
	}
	return taps
}

// checkMacvtapRates looks at the rates that a macvtap was attached with, and takes those of one way away.
func (h *host) checkMacvtapRates(name, mac string) {
	h.t.Helper()
	m := regexp.MustCompile(`(macvtap\d+)\s+direct\s+up1\s`).FindStringSubmatch(h.virsh("domiflist", name))
	if m == nil {
		h.t.Fatal("no macvtap on up1")
	}
	queues := func() string {
		return h.sh("tc class show dev " + m[1] + "; tc qdisc show dev " + m[1] + "; tc filter show dev " + m[1] + " ingress")
	}
	if q := queues(); !strings.Contains(q, "rate 2400Kbit") || !strings.Contains(q, "police") || !strings.Contains(q, "rate 4Mbit") {
		h.t.Errorf("rates of a macvtap that was attached:\n%s", q)
	}
	h.virsh("domiftune", name, mac, "--inbound", "0", "--live")
	if q := queues(); !strings.Contains(q, "rate 2400Kbit") || strings.Contains(q, "police") {
		h.t.Errorf("rates of a macvtap after one was taken away:\n%s", q)
	}
}

func macvtaps(h *host) []string {
	return regexp.MustCompile(`macvtap\d+@`).FindAllString(h.ip("-o", "link"), -1)
}

// checkPassthroughPool runs domains on a pool of one link in mode passthrough: the second has to wait for the first.
func (h *host) checkPassthroughPool(k labtest.GuestKernel) {
	h.t.Helper()
	h.virsh("net-define", h.file("pool.xml", "<network><name>pool</name><forward mode='passthrough'><interface dev='up1'/></forward></network>"))
	var names []string
	for _, n := range []string{"one", "two"} {
		names = append(names, h.define(guest{name: n, kernel: k, args: "lab.net=eth0:10.95.0.2/24",
			initrd:  labtest.AppendFiles(h.t, k.Tools, map[string]string{"cmd": "ping -c 2 -W 5 10.95.0.1 && echo pool ping ok\nsleep 600\n"}),
			devices: "<interface type='network'><source network='pool'/><model type='virtio'/></interface>"}))
	}
	h.vctl("start", names[0])
	h.refuses("requires exclusive access to interfaces, but none are available (up1 is with domain 'one')", "vctl", "start", names[1])
	if !testing.Short() { // the guest's boot is what takes long
		h.expect(names[0], "pool ping ok", 120*time.Second)
	}
	if xml := h.virsh("dumpxml", names[0]); !regexp.MustCompile(`<interface type='direct'>\s*<mac [^>]*>\s*<source network='pool' portid='[-0-9a-f]{36}' dev='up1' mode='passthrough'/>`).MatchString(xml) {
		h.t.Errorf("dumpxml:\n%s", xml)
	}
	if xml := h.virsh("dumpxml", "--inactive", names[0]); !strings.Contains(xml, "<source network='pool'/>") {
		h.t.Errorf("dumpxml --inactive:\n%s", xml)
	}
	if xml := h.virsh("net-dumpxml", "pool"); !strings.Contains(xml, "<interface dev='up1' connections='1'/>") {
		h.t.Errorf("net-dumpxml:\n%s", xml)
	}
	kill(h.t, h.engine(names[0])) // and its macvtap and port are free again
	h.off(names[0], 30*time.Second)
	h.vctl("start", names[1])
	h.vctl("destroy", names[1])
	h.virsh("net-destroy", "pool")
	h.virsh("net-undefine", "pool")
}
