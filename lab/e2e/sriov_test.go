package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// TestLabSRIOV: vctl makes virtual functions of a real card, with their drivers and interfaces, sets everything that the card can
// do for one, refuses what it cannot and what would take one from a guest, and makes them again after a boot of the host. A
// guest's interface of type direct sits on one.
func TestLabSRIOV(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Virsh, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	const pf, second = "/sys/bus/pci/devices/" + cardIGB, "0000:01:10.2"
	t.Cleanup(func() { os.WriteFile(pf+"/sriov_numvfs", []byte("0"), 0) })
	card, peer := h.interfaceOf(cardIGB), h.addressed(cardE1000E, "10.77.0.1/24")
	h.ip("link", "set", card, "up")
	h.until(time.Minute, "link of "+card, func() bool { return strings.TrimSpace(h.sh("cat /sys/class/net/"+card+"/carrier")) == "1" })

	h.refuses("PCI device 0000:01:00.0 can have 0 to 7 virtual functions, not 8", "vctl", "sriov", "create", card, "8")
	h.refuses("PCI device 0000:02:00.0 has no SR-IOV", "vctl", "sriov", "create", peer, "1")
	h.refuses("'eth99' is not a PCI address, an interface of a PCI card, or a node device", "vctl", "sriov", "create", "eth99", "1")
	h.refuses("Device 0000:09:00.0 not found", "vctl", "sriov", "create", "0000:09:00.0", "1")
	h.vctl("sriov", "create", card, "3", "--persist")
	list := h.vctl("sriov", "list")
	if !strings.Contains(list, fmt.Sprintf("%s %s (driver igb): 3 of 7 virtual functions, again after a boot", cardIGB, card)) || strings.Count(list, "driver igbvf") != 3 {
		t.Fatalf("sriov list:\n%s", list)
	}
	vf := h.interfaceOf(second)
	if !strings.Contains(lineWith(list, second), second+" "+vf+" driver igbvf") {
		t.Errorf("sriov list does not know interface %s:\n%s", vf, list)
	}
	h.setFunction(card, second)
	h.functionsInUse(card, second)
	h.directFunction()
	h.lockedMemory(second)

	h.stopDaemon(syscall.SIGTERM)
	h.reboot(pf)
	h.startDaemon()
	three := func() bool { return strings.Contains(h.vctl("sriov", "list"), ": 3 of 7") }
	h.until(time.Minute, "the virtual functions after a boot", three)
	h.vctl("sriov", "remove", card)
	h.stopDaemon(syscall.SIGTERM)
	h.reboot(pf)
	h.startDaemon()
	h.vctl("nodedev", "list") // it answers, so it has done what it does at its start
	if list := h.vctl("sriov", "list"); !strings.Contains(list, cardIGB+" "+card+" (driver igb): 0 of 7 virtual functions\n") {
		t.Errorf("after they were removed and a boot:\n%s", list)
	}
	h.vctl("sriov", "create", card, "2", "--no-driver")
	h.wantDriver(firstVF, "")
	h.wantDriver(second, "")
	if probing := strings.TrimSpace(h.sh("cat " + pf + "/sriov_drivers_autoprobe")); probing != "1" {
		t.Errorf("drivers look at further functions: %s", probing)
	}
}

// setFunction sets all that the card can do for the second function, one by one, and is refused the rest, with nothing changed.
func (h *host) setFunction(card, vf string) {
	h.t.Helper()
	now := func() string { return lineWith(h.ip("link", "show", card), "vf 1 ") }
	for _, c := range []struct{ option, value, says string }{
		{"--mac", "52:54:00:77:00:0b", "link/ether 52:54:00:77:00:0b"},
		{"--vlan", "42", "vlan 42"},
		{"--qos", "5", "vlan 42, qos 5"},
		{"--trust", "on", "trust on"},
		{"--spoofchk", "off", "spoof checking off"},
		{"--max-rate", "100", "max_tx_rate 100Mbps"},
	} {
		h.vctl("sriov", "set", vf, c.option, c.value)
		if line := now(); !strings.Contains(line, c.says) {
			h.t.Errorf("after sriov set %s %s: no %q in %s", c.option, c.value, c.says, line)
		}
	}
	list := lineWith(h.vctl("sriov", "list"), vf)
	if want := "mac 52:54:00:77:00:0b vlan 42 qos 5 trust on spoofchk off link-state auto max-rate 100"; !strings.Contains(list, want) {
		h.t.Errorf("sriov list says %q, want %q", list, want)
	}
	before := now()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--vlan", "9", "--link-state", "disable"}, "refuses the settings for its virtual function 1 (" + vf + "): link state: operation not supported"},
		{[]string{"--max-rate", "4000000000"}, "rate"},
		{[]string{"--mac", "01:00:5e:00:00:01"}, "'01:00:5e:00:00:01' is not the MAC address of one station"},
		{[]string{"--mac", "none"}, "'none' is not the MAC address of one station"},
		{[]string{"--vlan", "4095"}, "VLAN 4095: 0 (none) to 4094"},
		{[]string{"--qos", "8"}, "priority 8: 0 to 7"},
		{[]string{"--link-state", "sideways"}, "link state 'sideways': auto, enable or disable"},
	} {
		h.refuses(c.says, "vctl", append([]string{"sriov", "set", vf}, c.args...)...)
	}
	h.refuses("is not a virtual function", "vctl", "sriov", "set", cardE1000E, "--vlan", "1")
	if line := now(); line != before {
		h.t.Errorf("what was refused changed the function:\n%swas\n%s", line, before)
	}
	h.vctl("sriov", "set", vf, "--vlan", "0", "--qos", "0", "--trust", "off", "--spoofchk", "on", "--max-rate", "0", "--mac", "00:00:00:00:00:00")
}

// functionsInUse tries to take the functions away from under a guest that has one.
func (h *host) functionsInUse(card, vf string) {
	h.t.Helper()
	name := h.define(guest{name: "user", kernel: labtest.Kernel("6.12"), devices: functionNIC(vf, "yes", "52:54:00:77:00:0c", "")})
	h.vctl("start", "--paused", name)
	const used = "PCI device 0000:01:10.2 is in use by driver QEMU, domain user"
	h.refuses(used, "vctl", "sriov", "remove", card)
	h.refuses(used, "vctl", "sriov", "create", card, "4")
	if line := lineWith(h.vctl("sriov", "list"), vf); !strings.Contains(line, "domain user") {
		h.t.Errorf("sriov list: %s", line)
	}
	other := h.define(guest{name: "other", kernel: labtest.Kernel("6.12"), devices: hostdev(vf, "yes")})
	h.refuses(used, "vctl", "start", other)
	h.vctl("destroy", name)
	h.vctl("undefine", other)
}

// lockedMemory starts a guest with a function under a virtd that may not raise the limit of locked memory, as in a container.
func (h *host) lockedMemory(vf string) {
	h.t.Helper()
	name := h.define(guest{name: "locked", kernel: labtest.Kernel("6.12"), devices: functionNIC(vf, "yes", "52:54:00:77:00:0e", "")})
	before, real := driverOf(vf), h.program("virtd")
	h.stopDaemon(syscall.SIGTERM)
	h.file("virtd", "#!/bin/bash\nulimit -l 65536\nexec setpriv --bounding-set -sys_resource --inh-caps -sys_resource "+real+" \"$@\"\n")
	if err := os.Chmod(h.path("virtd"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.startDaemon()
	h.refuses("locked-memory limit", "vctl", "start", name)
	h.wantDriver(vf, before)
	h.stopDaemon(syscall.SIGTERM)
	if err := os.Remove(h.path("virtd")); err != nil {
		h.t.Fatal(err)
	}
	h.startDaemon()
}

// directFunction runs a guest on a macvtap over the first function's interface.
func (h *host) directFunction() {
	h.t.Helper()
	vf := h.interfaceOf(firstVF)
	h.ip("link", "set", vf, "up")
	k := labtest.Kernel("6.12")
	name := h.define(guest{name: "direct", kernel: k, args: "lab.net=eth0:10.77.0.2/24", run: "sleep 3; ping -c 5 -W 5 10.77.0.1 && echo direct ping ok",
		devices: fmt.Sprintf("<interface type='direct'><mac address='52:54:00:77:00:0d'/><source dev='%s' mode='passthrough'/><model type='virtio'/></interface>", vf)})
	if testing.Short() { // the guest's boot is what takes long
		h.vctl("start", "--paused", name)
	} else {
		h.vctl("start", name)
		h.expect(name, "direct ping ok", 5*time.Minute)
		h.finish(name, time.Minute)
		h.vctl("start", "--paused", name)
	}
	if links := h.ip("-o", "link"); !strings.Contains(lineWith(links, "@"+vf+":"), "52:54:00:77:00:0d") {
		h.t.Errorf("no macvtap on %s:\n%s", vf, links)
	}
	h.vctl("destroy", name)
	if links := h.ip("-o", "link"); strings.Contains(links, "@"+vf+":") {
		h.t.Errorf("a macvtap is left on %s:\n%s", vf, links)
	}
}

// reboot is what a boot of the host does to a card and to virtd, which is not running.
func (h *host) reboot(pf string) {
	h.t.Helper()
	if err := os.WriteFile(pf+"/sriov_numvfs", []byte("0"), 0); err != nil {
		h.t.Fatal(err)
	}
	const id = "/proc/sys/kernel/random/boot_id"
	h.sh("cat /proc/sys/kernel/random/uuid >" + h.path("boot_id") + " && mount --bind " + h.path("boot_id") + " " + id)
	h.t.Cleanup(func() { syscall.Unmount(id, syscall.MNT_DETACH) })
}
