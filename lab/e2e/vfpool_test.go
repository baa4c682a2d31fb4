package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

const poolXML = `<network><name>vfs</name><forward mode='hostdev' managed='yes'><driver name='vfio'/><pf dev='%s'/></forward>
<portgroup name='red'><vlan><tag id='42'/></vlan></portgroup><portgroup name='blue'><vlan><tag id='43'/></vlan></portgroup></network>`

// onPool is an interface on the pool.
func onPool(mac, group string) string {
	if group != "" {
		group = " portgroup='" + group + "'"
	}
	return "<interface type='network'><mac address='" + mac + "'/><source network='vfs'" + group + "/></interface>"
}

// vfPool makes a pool of the igb card, with that many functions. It returns their addresses and the card's interface.
func (h *host) vfPool(count int) (vfs []string, card string) {
	h.t.Helper()
	h.labCards()
	card = h.interfaceOf(cardIGB)
	h.ip("link", "set", card, "up")
	vfs = h.functions(count)
	h.virsh("net-define", h.file("pool.xml", fmt.Sprintf(poolXML, card)))
	return vfs, card
}

// TestLabFunctionPool: a pool of a card's virtual functions gives each domain one, with its MAC address and VLAN set at the card,
// at start and by attaching; says who has them when it is used up; and gives one that comes back to the next domain, also after
// kills of the engine and of virtd. A client's port has one as long.
func TestLabFunctionPool(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Virsh, labtest.Program("ip"))
	count := 4
	if testing.Short() {
		count = 2
	}
	h := startHost(t)
	vfs, card := h.vfPool(count)
	native := driverOf(vfs[0])
	var names []string
	for i := range count + 1 {
		devices := onPool(fmt.Sprintf("52:54:00:77:01:%02x", i), "red")
		if i == count-1 {
			devices = "" // it gets its own while it runs
		}
		names = append(names, h.define(guest{name: fmt.Sprintf("pool%d", i), kernel: labtest.Kernel("6.12"), devices: devices}))
	}
	for _, name := range names[:count] {
		h.vctl("start", name)
	}
	last, late := names[count-1], h.file("late.xml", onPool(fmt.Sprintf("52:54:00:77:01:%02x", count-1), "red"))
	h.virsh("attach-device", last, late, "--live")
	full := fmt.Sprintf("network 'vfs' requires exclusive access to interfaces, but none are available: all %d devices are in use", count)
	refused := func() { t.Helper(); h.refuses(full, "virsh", "start", names[count]) }
	refused()
	links := h.ip("link", "show", card)
	for i, vf := range vfs {
		h.wantDriver(vf, "vfio-pci")
		if line := lineWith(links, fmt.Sprintf("vf %d ", i)); !strings.Contains(line, fmt.Sprintf("52:54:00:77:01:%02x", i)) || !strings.Contains(line, "vlan 42") {
			t.Errorf("function %d at the card: %q", i, line)
		}
		xml := h.virsh("dumpxml", names[i])
		for _, want := range []string{"<interface type='hostdev' managed='yes'>", "<driver name='vfio'/>", "<tag id='42'/>",
			"<alias name='hostdev0'/>", fmt.Sprintf("bus='0x01' slot='0x%s' function='0x%s'", vf[8:10], vf[11:])} {
			if !strings.Contains(xml, want) {
				t.Errorf("domain %s has no %q:\n%s", names[i], want, xml)
			}
		}
	}
	if out := h.virsh("dumpxml", names[0], "--inactive"); !strings.Contains(out, "<interface type='network'>") {
		t.Errorf("definition of %s:\n%s", names[0], out)
	}
	net := h.virsh("net-dumpxml", "vfs")
	if !strings.Contains(net, fmt.Sprintf("<network connections='%d'>", count)) || strings.Count(net, "connections='1'/>") != count {
		t.Errorf("network:\n%s", net)
	}
	if out := h.vctl("net", "info", "vfs"); !strings.Contains(out, vfs[0]+" (domain "+names[0]+")") {
		t.Errorf("vctl net info:\n%s", out)
	}

	back := func(vf string) {
		t.Helper()
		h.until(time.Minute, "function back with its driver", func() bool { return driverOf(vf) == native })
	}
	h.stopDaemon(syscall.SIGKILL) // the next virtd knows whose they are
	h.startDaemon()
	refused()
	h.virsh("destroy", names[0])
	back(vfs[0])
	if line := lineWith(h.ip("link", "show", card), "vf 0 "); strings.Contains(line, "vlan 42") || strings.Contains(line, "52:54:00:77:01:00") {
		t.Errorf("the card keeps what was set for a domain that ended: %q", line)
	}
	h.vctl("start", names[count])
	h.wantDriver(vfs[0], "vfio-pci")
	h.refuses(full, "virsh", "start", names[0])

	kill(t, h.engine(names[count]))
	back(vfs[0])
	h.until(time.Minute, "port back", func() bool { return strings.Contains(h.vctl("net", "info", "vfs"), vfs[0]+" (free)") })
	h.virsh("net-port-create", "vfs", h.file("port.xml", labPort("52:54:00:77:01:98", "")), "--validate")
	pid := h.engine(last) // whose engine dies while there is no virtd
	h.stopDaemon(syscall.SIGKILL)
	kill(t, pid)
	h.startDaemon()
	back(vfs[count-1])
	h.clientFunction(vfs[0], vfs[count-1])
	h.vctl("start", names[count])
	h.vctl("start", names[0])
	refusedName := h.define(guest{name: "one-more", kernel: labtest.Kernel("6.12"), devices: onPool("52:54:00:77:01:99", "")})
	h.refuses(full, "virsh", "start", refusedName)
	h.destroyAll()
	for _, vf := range vfs {
		back(vf)
	}
	if !testing.Short() {
		h.vlansOfPool()
	}
}

// clientFunction looks at the port of a client, which has a function that no domain gets until the client gives it back. The
// other function is free.
func (h *host) clientFunction(vf, other string) {
	h.t.Helper()
	want := fmt.Sprintf("<address domain='0x0000' bus='0x01' slot='0x%s' function='0x%s'/>", vf[8:10], vf[11:])
	if got := h.virsh("net-port-dumpxml", "vfs", labPortID); !strings.Contains(got, "<plug type='hostdev-pci' managed='yes'>") || !strings.Contains(got, want) {
		h.t.Errorf("the client's port has not function %s:\n%s", vf, got)
	}
	if info := h.vctl("net", "info", "vfs"); !strings.Contains(info, vf+" (port of appliance)") || !strings.Contains(info, other+" (free)") {
		h.t.Errorf("with the client's port:\n%s", info)
	}
	h.virsh("net-port-delete", "vfs", labPortID)
	if info := h.vctl("net", "info", "vfs"); !strings.Contains(info, vf+" (free)") {
		h.t.Errorf("after the client's port was removed:\n%s", info)
	}
}

// vlansOfPool starts two guests in each of two VLANs: they reach the one in their own, and not the one in the other.
func (h *host) vlansOfPool() {
	h.t.Helper()
	k := labtest.Kernel("6.12")
	const up = `for n in /sys/class/net/*; do [ $(basename $n) = lo ] || nic=$(basename $n); done
ip addr add 10.77.0.%d/24 dev $nic; ip link set $nic up; sleep 3; echo LAB-UP
`
	const ask = `ping -c 5 -W 5 10.77.0.%d >/dev/null && echo LAB-%s ok || echo LAB-%s lost
`
	boot := func(name, group string, n int, then string) string {
		script := fmt.Sprintf(up, n) + then
		name = h.define(guest{name: name, kernel: k, initrd: labtest.AppendFiles(h.t, k.Initrd, map[string]string{"cmd": script}),
			devices: onPool(fmt.Sprintf("52:54:00:77:02:%02x", n), group)})
		h.vctl("start", name)
		return name
	}
	const wait = "while true; do sleep 1; done\n"
	red, blue := boot("red", "red", 1, wait), boot("blue", "blue", 2, wait)
	for _, name := range []string{red, blue} {
		h.expect(name, "LAB-UP", 5*time.Minute)
	}
	both := fmt.Sprintf(ask, 1, "RED", "RED") + fmt.Sprintf(ask, 2, "BLUE", "BLUE") + "exit 0\n"
	for group, want := range map[string][]string{"red": {"LAB-RED ok", "LAB-BLUE lost"}, "blue": {"LAB-RED lost", "LAB-BLUE ok"}} {
		name := boot("ask-"+group, group, 3+len(group), both)
		h.expect(name, "LAB-RC: 0", 7*time.Minute)
		for _, w := range want {
			if out := h.output(name); !strings.Contains(out, w) {
				h.t.Errorf("the guest in VLAN %s does not say %q:\n%s", group, w, tail(out, 2000))
			}
		}
	}
	detached := h.file("red.xml", onPool("52:54:00:77:02:01", "red"))
	h.virsh("detach-device", red, detached, "--live")
	h.until(time.Minute, "the interface leaves the definition", func() bool { return !strings.Contains(h.virsh("dumpxml", red), "hostdev") })
	h.until(time.Minute, "the port is given back", func() bool { return !strings.Contains(h.vctl("net", "info", "vfs"), "(domain "+red+")") })
}
