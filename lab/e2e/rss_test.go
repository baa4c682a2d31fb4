package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// checkRSS runs a guest that chooses in which queues of its cards packets arrive: one of the engine and one of the kernel's
// vhost-net. It is saved and restored, which keeps the tables, and gets a third card while it runs.
func checkRSS(t *testing.T, h *host, s *fileServer) {
	const queues = 4
	k := labtest.Kernel("6.12")
	card := func(driver string) string {
		return strings.Replace(nic("virtdbr0", driver, queues), "queues=", "rss='on' queues=", 1)
	}
	name := h.define(guest{name: "rss", kernel: k, memory: 512, vcpus: queues,
		initrd:  labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": rssScript(queues, s.port)}),
		args:    "lab.net=eth0:10.91.0.2/24,eth1:10.92.0.2/24",
		devices: card("qemu") + card("vhost")})
	h.vctl("start", name)
	h.expect(name, "traffic done", 280*time.Second)
	out := h.output(name)
	for n, kind := range []string{"qemu", "vhost"} {
		if want := fmt.Sprintf("eth%d table of 128 entries and 4 rings", n); !strings.Contains(out, want) {
			t.Errorf("the %s card: no %q on the console:\n%s", kind, want, tail(out, 3000))
		}
		for _, q := range []int{3, 1} {
			if got := arrived(t, out, fmt.Sprintf("eth%d to %d", n, q), queues); got[q] < 30 || total(got)-got[q] > 10 {
				t.Errorf("the %s card has a table that names queue %d alone, and interrupts came from queues: %v", kind, q, got)
			}
		}
		got := arrived(t, out, fmt.Sprintf("eth%d to all", n), queues)
		used := 0
		for _, n := range got {
			if n >= 4 {
				used++
			}
		}
		if used < 2 {
			t.Errorf("the %s card has a table that names all queues, and with 16 connections interrupts came from queues: %v", kind, got)
		}
	}

	image := h.path("rss.image")
	h.virsh("save", name, image)
	h.virsh("restore", image)
	told := func(what string) {
		t.Helper()
		// the guest may not have asked yet when it was saved
		h.until(2*time.Minute, what, func() bool { s.release(); return strings.Contains(h.output(name), what+" before ") })
	}
	told("eth0 restored")
	told("eth1 restored")
	h.ip("addr", "add", "10.93.0.1/24", "dev", "virtdbr0")
	const mac = "52:54:00:93:00:01"
	h.virsh("attach-device", name, h.file("third.xml", strings.Replace(card("qemu"), "<source", "<mac address='"+mac+"'/><source", 1)), "--live")
	h.expect(name, "plugged done", 2*time.Minute)
	out = h.output(name)
	for _, what := range []string{"eth0 restored", "eth1 restored", "eth2 to 1"} {
		q := 3
		if what == "eth2 to 1" {
			q = 1
		}
		if got := arrived(t, out, what, queues); got[q] < 30 || total(got)-got[q] > 10 {
			t.Errorf("%s: the table names queue %d alone, and interrupts came from queues: %v", what, q, got)
		}
	}
	h.virsh("detach-interface", name, "bridge", "--mac", mac, "--live")
	h.finish(name, 2*time.Minute)
	h.vctl("undefine", name)
}

// rssScript prints how many interrupts connections, and pings, made in which queue, by what the table says: on both cards, again
// when the server lets it go on, and on a card that comes then.
func rssScript(queues, port int) string {
	return fmt.Sprintf(`
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
counts() {
  for q in $(seq 0 $((%[1]d-1))); do
    awk -v name="$(basename $(readlink /sys/class/net/$1/device))-input.$q" '$NF == name { for (i = 2; i < NF; i++) if ($i ~ /^[0-9]+$/) n += $i; print n }' /proc/interrupts
  done | tr '\n' ' '
}
# traffic CARD WHAT: interrupts of each queue by connections, and pings unless all queues are to be used
traffic() {
  local n=$((${1#eth}+1)) before c
  ping -c 1 -W 5 10.9$n.0.1 >/dev/null
  before=$(counts $1)
  [ "$2" = "to all" ] || ping -c 20 -i 0.02 -q -W 5 10.9$n.0.1 >/dev/null
  for c in $(seq 16); do bash -c "exec 5<>/dev/tcp/10.9$n.0.1/%[2]d; for i in 1 2 3; do echo ping >&5; read -r x <&5; done"; done
  echo "$1 $2 before $before after $(counts $1)."
}
for e in eth0 eth1; do
  ethtool -L $e combined %[1]d
  ethtool -x $e
  echo "$e table of $(($(ethtool -x $e | grep -c '^ *[0-9]*: ') * 8)) entries and $(ethtool -x $e | sed -n 's/.*with \([0-9]*\) RX ring.*/\1 rings/p')"
  for to in 3 1 all; do
    case $to in all) ethtool -X $e equal %[1]d ;; *) ethtool -X $e start $to equal 1 ;; esac || echo "$e: no table for $to"
    traffic $e "to $to"
  done
  ethtool -X $e start 3 equal 1
done
echo "traffic done"
exec 6<>/dev/tcp/10.91.0.1/%[2]d; echo wait >&6; read -r x <&6
for e in eth0 eth1; do traffic $e restored; done
until [ -e /sys/class/net/eth2 ]; do sleep 0.1; done
ip link set eth2 up; ip addr add 10.93.0.2/24 dev eth2
ethtool -L eth2 combined %[1]d
ethtool -X eth2 start 1 equal 1
traffic eth2 "to 1"
echo "plugged done"
until [ ! -e /sys/class/net/eth2 ]; do sleep 0.1; done
`, queues, port)
}

// arrived reads a line of rssScript: interrupts by queue.
func arrived(t *testing.T, out, what string, queues int) []int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + what + ` before ([\d ]+) after ([\d ]+)\.`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("the guest does not say what arrived of %q:\n%s", what, tail(out, 3000))
	}
	before, after := strings.Fields(m[1]), strings.Fields(m[2])
	if len(before) != queues || len(after) != queues {
		t.Fatalf("the guest counts %q of %d queues", m[0], queues)
	}
	interrupts := make([]int, queues)
	for q := range interrupts {
		was, _ := strconv.Atoi(before[q])
		is, _ := strconv.Atoi(after[q])
		interrupts[q] = is - was
	}
	return interrupts
}

func total(list []int) (sum int) {
	for _, n := range list {
		sum += n
	}
	return sum
}
