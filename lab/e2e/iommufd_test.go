package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// replugScript follows networkCardScript: the card goes and comes again, and a disk comes and goes.
const replugScript = `
w() { until eval "$1"; do sleep 0.1; done; echo "$2"; }
nics() { ls /sys/class/net | grep -v '^lo$'; }
modprobe nvme
echo card done
w '[ -b /dev/nvme0n1 ]' "disk came"
echo "by iommufd" | dd of=/dev/nvme0n1 bs=4096 conv=sync,fsync 2>/dev/null && echo "disk written"
w '[ -z "$(nics)" ]' "card went"
w '[ ! -e /dev/nvme0n1 ]' "disk went"
w '[ -n "$(nics)" ]' "card came"
nic=$(nics); ip addr add 10.77.0.2/24 dev $nic; ip link set $nic up; sleep 1
ping -c 10 -i 0.5 -W 5 10.77.0.1 | grep -q 'bytes from' && echo "card pinged again"
while true; do sleep 1; done
`

// TestLabIommufd: a stock Debian guest has a virtual function through iommufd: its driver binds, its interrupts come, a file goes
// both ways. A disk joins it in the address space, both leave the running guest and the function comes again; then the engine is
// killed, and the function is the host's as it was. Who does not ask for iommufd has the container, on the same host.
func TestLabIommufd(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.IOMMUFD, labtest.SRIOV, labtest.Virsh, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	if line := lineWith(h.vctl("host-check"), "iommufd"); !strings.Contains(line, "/dev/iommu is there") {
		t.Errorf("host-check says %q", line)
	}
	card := h.interfaceOf(cardIGB)
	h.ip("link", "set", card, "up")
	h.addressed(cardE1000E, "10.77.0.1/24")
	h.functions(1)
	h.ip("link", "set", card, "vf", "0", "mac", "52:54:00:77:00:0a")
	h.rebind(firstVF)
	h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
	vfBefore, diskBefore := h.cardState(firstVF), h.cardState(cardNVMe)
	const driver = "<driver iommufd='yes'/>"
	function := functionNIC(firstVF, "yes", "52:54:00:77:00:02", driver)
	disk := strings.Replace(hostdev(cardNVMe, "yes"), "<source>", driver+"<source>", 1)

	s := startFileServer(t, passedBytes())
	k := labtest.Kernel("6.12")
	name := h.define(guest{name: "iommufd", kernel: k, devices: function,
		initrd: labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": networkCardScript("10.77.0", s) + replugScript})})
	h.vctl("start", name)
	h.wantDriver(firstVF, "vfio-pci")
	h.expect(name, "card done", 9*time.Minute)
	h.checkNetworkCard(name, "igbvf", "PCI-MSIX", s)
	h.wantVFIO(name, "/dev/iommu", "/dev/vfio/devices/vfio0")
	if n := h.pinned(name); n < 64<<10 {
		t.Errorf("%d KiB of the engine are pinned", n)
	}
	if text := h.virsh("dumpxml", name); !strings.Contains(text, "<driver name='vfio' iommufd='yes'/>") {
		t.Errorf("its XML:\n%s", text)
	}
	h.refuses("cannot migrate a domain with <interface type='hostdev'>", "virsh", "save", name, h.path("saved"))
	h.refuses("some host devices of the domain use iommufd and some do not", "virsh", "attach-device", name, h.file("container.xml", hostdev(cardNVMe, "yes")), "--live")
	h.wantCard(cardNVMe, diskBefore)

	functionFile, diskFile := h.file("vf.xml", function), h.file("nvme.xml", disk)
	h.virsh("attach-device", name, diskFile, "--live")
	h.expect(name, "disk written", 2*time.Minute)
	h.wantVFIO(name, "/dev/iommu", "/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1")
	h.virsh("detach-device", name, functionFile, "--live")
	h.expect(name, "card went", 2*time.Minute)
	h.wantCard(firstVF, vfBefore)
	h.virsh("detach-device", name, diskFile, "--live")
	h.expect(name, "disk went", 2*time.Minute)
	h.wantCard(cardNVMe, diskBefore)
	h.until(time.Minute, "nothing of VFIO in the engine", func() bool { return len(h.vfioFiles(name)) == 0 && h.pinned(name) == 0 })
	if text := h.sh("head -c 10 /dev/nvme0n1"); text != "by iommufd" {
		t.Errorf("the host reads %q from the disk", text)
	}
	h.virsh("attach-device", name, functionFile, "--live")
	h.expect(name, "card pinged again", 2*time.Minute)
	h.wantVFIO(name, "/dev/iommu", "/dev/vfio/devices/vfio0")
	if log := h.sh("cat " + h.path("log/"+name+".log")); !strings.Contains(log, "warning: hostdev0: other devices cannot reach its BAR 0") ||
		!strings.Contains(log, "bad address (iommufd maps no memory of devices; VFIO's container does)") {
		t.Errorf("the engine's log does not say that BARs are not mapped for other devices:\n%s", log)
	}
	kill(t, h.engine(name))
	h.off(name, time.Minute)
	h.wantCard(firstVF, vfBefore)

	other := h.define(guest{name: "container", kernel: k, devices: functionNIC(firstVF, "yes", "52:54:00:77:00:02", "")})
	h.vctl("start", "--paused", other)
	h.wantVFIO(other, "/dev/vfio/vfio", "/dev/vfio/")
	if text := h.virsh("dumpxml", other); strings.Contains(text, "iommufd") {
		t.Errorf("its XML:\n%s", text)
	}
	h.vctl("destroy", other)
	h.wantCard(firstVF, vfBefore)
}

// vfioFiles are the files of VFIO and iommufd that an engine has open.
func (h *host) vfioFiles(name string) (files []string) {
	h.t.Helper()
	for _, fd := range h.openFiles(name) {
		if to, err := os.Readlink(fd); err == nil && (strings.HasPrefix(to, "/dev/vfio/") || to == "/dev/iommu") {
			files = append(files, to)
		}
	}
	return files
}

// wantVFIO checks that an engine has these files of VFIO open and no others; one that ends with a slash is any below it.
func (h *host) wantVFIO(name string, want ...string) {
	h.t.Helper()
	seen := map[string]bool{}
	for _, file := range h.vfioFiles(name) {
		known := false
		for _, w := range want {
			if file == w || strings.HasSuffix(w, "/") && strings.HasPrefix(file, w) {
				seen[w], known = true, true
			}
		}
		if !known {
			h.t.Errorf("the engine has %s open", file)
		}
	}
	for _, w := range want {
		if !seen[w] {
			h.t.Errorf("the engine does not have %s open, only %v", w, h.vfioFiles(name))
		}
	}
}

// pinned is how many KiB of an engine's memory stay where they are for the sake of devices.
func (h *host) pinned(name string) (kib int) {
	h.t.Helper()
	line := lineWith(h.sh(fmt.Sprintf("cat /proc/%d/status", h.engine(name))), "VmPin:")
	if _, err := fmt.Sscanf(strings.TrimPrefix(line, "VmPin:"), "%d kB", &kib); err != nil {
		h.t.Fatalf("the kernel says %q: %v", line, err)
	}
	return kib
}
