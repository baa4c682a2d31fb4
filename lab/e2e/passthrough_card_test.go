package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// TestLabPassthroughCard: a Debian guest has the e1000e card, and a file goes both ways between it and the igb card on the
// same segment: with MSI-X, and with the card's pin, when the guest is told to use no messages.
func TestLabPassthroughCard(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	const nic = "0000:02:00.0"
	peer := h.interfaceOf("0000:01:00.0")
	h.ip("addr", "add", "10.78.0.1/24", "dev", peer)
	h.ip("link", "set", peer, "up")
	size := int64(100 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	s := startFileServer(t, size)
	for _, c := range []struct{ name, args, interrupt string }{
		{"intx", "pci=nomsi", "IO-APIC"},
		{"msix", "", "PCI-MSI"},
	} {
		if testing.Short() && c.name == "msix" {
			continue // TestLabPassthrough has it
		}
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			k := labtest.Kernel("6.12")
			name := h.define(guest{name: c.name, kernel: k, args: c.args,
				initrd:  labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": fmt.Sprintf(cardScript, s.port, s.size>>20)}),
				devices: `<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='2' slot='0' function='0'/></source></hostdev>`})
			h.vctl("start", name)
			h.wantDriver(nic, "vfio-pci")
			h.expect(name, "LAB-RC: 0", 9*time.Minute)
			out := h.output(name)
			for _, want := range []string{"driver e1000e", "ping ok", "down " + s.sum, "up ok", c.interrupt} {
				if !strings.Contains(out, want) {
					t.Errorf("the guest does not say %q:\n%s", want, tail(out, 3000))
				}
			}
			if puts := s.pushed(); len(puts) != 1 || puts[0] != s.size {
				t.Errorf("came from the guest: %v bytes, want %d", puts, s.size)
			}
			h.until(time.Minute, "card back with its driver", func() bool { return driverOf(nic) == "e1000e" })
			h.vctl("undefine", name)
		})
	}
	h.t = t
}

const cardScript = `
for n in /sys/class/net/*; do [ $(basename $n) = lo ] || nic=$(basename $n); done
echo driver $(basename $(readlink /sys/class/net/$nic/device/driver))
ip addr add 10.78.0.2/24 dev $nic; ip link set $nic up
for i in $(seq 20); do [ "$(cat /sys/class/net/$nic/carrier)" = 1 ] && break; sleep 1; done
ping -c 5 -W 5 10.78.0.1 && echo ping ok
exec 5<>/dev/tcp/10.78.0.1/%[1]d; echo get >&5; echo "down $(sha256sum <&5)"; exec 5<&-
exec 5<>/dev/tcp/10.78.0.1/%[1]d; { echo put; dd if=/dev/zero bs=1M count=%[2]d 2>/dev/null; } >&5 && echo up ok; exec 5<&-
grep $nic /proc/interrupts
`
