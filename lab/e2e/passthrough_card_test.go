package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// TestLabPassthroughCard: a Debian guest has a whole card of the host, e1000e or igb, and a file goes both ways between it and
// the other card, which is on the same segment: with MSI-X, and with the card's pin, when the guest is told to use no messages.
// The guest sees an interrupt for what it did.
func TestLabPassthroughCard(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	s := startFileServer(t, passedBytes())
	for _, c := range []struct{ name, address, peer, driver, args, interrupt string }{
		{"intx", cardE1000E, cardIGB, "e1000e", "pci=nomsi", "IO-APIC"},
		{"msix", cardE1000E, cardIGB, "e1000e", "", "PCI-MSIX"},
		{"physical", cardIGB, cardE1000E, "igb", "", "PCI-MSIX"},
	} {
		if testing.Short() && c.name == "msix" {
			continue // the physical function has it
		}
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			h.addressed(c.peer, "10.78.0.1/24")
			before := h.cardState(c.address)
			k := labtest.Kernel("6.12")
			name := h.define(guest{name: c.name, kernel: k, args: c.args,
				initrd:  labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": networkCardScript("10.78.0", s) + "exit 0\n"}),
				devices: hostdev(c.address, "yes")})
			h.vctl("start", name)
			h.wantDriver(c.address, "vfio-pci")
			h.expect(name, "LAB-RC: 0", 9*time.Minute)
			h.checkNetworkCard(name, c.driver, c.interrupt, s)
			h.wantCard(c.address, before)
			h.vctl("undefine", name)
		})
	}
	h.t = t
}

// hostdev is a function of the host in a domain.
func hostdev(address, managed string) string {
	return fmt.Sprintf("<hostdev mode='subsystem' type='pci' managed='%s'><source><address domain='0' bus='0x%s' slot='0x%s' function='0x%s'/></source></hostdev>",
		managed, address[5:7], address[8:10], address[11:])
}

// passedBytes is the size of the file that goes through a passed-through network card.
func passedBytes() int64 {
	if testing.Short() {
		return 4 << 20
	}
	return 100 << 20
}

// networkCardScript is a guest that talks over its only network card with a file server at .1 of a network of which it is .2.
func networkCardScript(network string, s *fileServer) string {
	return fmt.Sprintf(`
for n in /sys/class/net/*; do [ $(basename $n) = lo ] || nic=$(basename $n); done
echo card driver $(basename $(readlink /sys/class/net/$nic/device/driver)) address $(cat /sys/class/net/$nic/address)
ip addr add %[1]s.2/24 dev $nic; ip link set $nic up
for i in $(seq 20); do [ "$(cat /sys/class/net/$nic/carrier)" = 1 ] && break; sleep 1; done
ping -c 5 -W 5 %[1]s.1 && echo card ping ok
%[2]s
echo "card down $(fetch %[1]s.1)"
push %[1]s.1 && echo card up ok
grep $nic /proc/interrupts
`, network, s.shell())
}

// checkNetworkCard looks at what networkCardScript printed and the server got.
func (h *host) checkNetworkCard(name, driver, interrupt string, s *fileServer) {
	h.t.Helper()
	out := h.output(name)
	for _, want := range []string{"card driver " + driver + " address ", "card ping ok", "card down " + s.sum, "card up ok"} {
		if !strings.Contains(out, want) {
			h.t.Errorf("the guest does not say %q:\n%s", want, tail(out, 3000))
		}
	}
	if n := interrupts(out, interrupt, "eth"); n < 50 {
		h.t.Errorf("%d interrupts of kind %s came from the card:\n%s", n, interrupt, tail(out, 3000))
	}
	s.checkPushed(h.t, 1)
}

// interrupts adds the counts of a guest's /proc/interrupts whose controller is of that kind and whose handler's name begins so.
// The guest has one vCPU.
func interrupts(out, kind, handler string) (sum int) {
	line := regexp.MustCompile(`(?m)^ *\d+: +(\d+) +(?:IR-)?` + kind + `\S* +\S+ +(?:.* )?` + handler + `\S*\s*$`)
	for _, m := range line.FindAllStringSubmatch(out, -1) {
		sum += sumOf(m[1])
	}
	return sum
}
