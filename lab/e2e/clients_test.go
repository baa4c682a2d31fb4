package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// virt-install of the distribution makes a domain from an image and a kernel; its guest reaches its shell on a machine with
// all the root ports that virt-install adds, is on the bridge, and dominfo names the devices that it did not get. virt-xml
// changes the domain, and virt-clone copies it.
func TestLabVirtInstall(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh, labtest.Program("virt-install"), labtest.Program("virt-xml"), labtest.Program("virt-clone"))
	h := startHost(t)
	h.bridge("virtdbr0", "10.91.0.1/24")
	k := labtest.Kernel("6.12")
	image := h.image("disk.img", 64)
	const name = "installed"
	h.client("virt-install", "--name", name, "--memory", "256", "--osinfo", "linux2020", "--import", "--disk", "path="+image,
		"--boot", "kernel="+k.Image+",initrd="+k.Initrd+",kernel_args="+bootArgs+" lab.net=eth0:10.91.0.2/24@10.91.0.1",
		"--serial", "pty,log.file="+h.path(name+".console")+",log.append=on", "--network", "bridge=virtdbr0", "--noautoconsole")
	h.expect(name, "LAB-GUEST: shell", 150*time.Second)
	h.state(name, "running (booted)")
	h.sh("ping -c 1 -W 10 10.91.0.2")
	typeIntoConsole(t, h, "virsh", name)
	if info := h.virsh("dominfo", name); !strings.Contains(info, "not provided: graphics") || !strings.Contains(info, "not provided: channel") {
		t.Errorf("dominfo does not say what the guest lacks:\n%s", info)
	}
	h.virsh("shutdown", name)
	h.off(name, 60*time.Second)

	h.client("virt-xml", name, "--edit", "--memory", "192")
	if info := h.virsh("dominfo", name); !strings.Contains(info, "196608 KiB") {
		t.Errorf("virt-xml did not change the memory:\n%s", info)
	}
	copied := filepath.Join(h.images(), "copy.img")
	h.client("virt-clone", "--original", name, "--name", "copy", "--file", copied)
	if list := h.virsh("domblklist", "copy"); !strings.Contains(list, copied) {
		t.Errorf("disks of the copy:\n%s", list)
	}
}

// bootArgs boot a guest of the lab fast and quietly.
const bootArgs = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=1"

// client runs a program other than vctl and virsh, which must succeed.
func (h *host) client(program string, args ...string) string {
	h.t.Helper()
	out, err := exec.Command(program, append([]string{"--connect", h.uri()}, args...)...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}
