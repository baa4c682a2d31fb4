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
// vhost-net.
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
	h.finish(name, 60*time.Second)
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
	h.vctl("undefine", name)
}

// rssScript prints how many interrupts connections, and pings, made in which queue, by what the table says.
func rssScript(queues, port int) string {
	return fmt.Sprintf(`
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
counts() {
  for q in $(seq 0 $((%[1]d-1))); do
    awk -v name="$(basename $(readlink /sys/class/net/$1/device))-input.$q" '$NF == name { for (i = 2; i < NF; i++) if ($i ~ /^[0-9]+$/) n += $i; print n }' /proc/interrupts
  done | tr '\n' ' '
}
for n in 1 2; do
  e=eth$((n-1))
  ethtool -L $e combined %[1]d
  ethtool -x $e
  echo "$e table of $(($(ethtool -x $e | grep -c '^ *[0-9]*: ') * 8)) entries and $(ethtool -x $e | sed -n 's/.*with \([0-9]*\) RX ring.*/\1 rings/p')"
  for to in 3 1 all; do
    case $to in all) ethtool -X $e equal %[1]d ;; *) ethtool -X $e start $to equal 1 ;; esac || echo "$e: no table for $to"
    ping -c 1 -W 5 10.9$n.0.1 >/dev/null
    before=$(counts $e)
    [ $to = all ] || ping -c 20 -i 0.02 -q -W 5 10.9$n.0.1 >/dev/null
    for c in $(seq 16); do bash -c "exec 5<>/dev/tcp/10.9$n.0.1/%[2]d; for i in 1 2 3; do echo ping >&5; read -r x <&5; done"; done
    echo "$e to $to before $before after $(counts $e)."
  done
done
echo "traffic done"
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
