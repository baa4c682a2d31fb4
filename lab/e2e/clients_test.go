package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

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

// python3-libvirt with a Linux guest: its event loop and events, a console by a stream, statistics, a disk that comes and
// goes, error codes, a shutdown that the guest does.
func TestLabPython(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Program("python3"))
	h := startHost(t)
	name := h.define(guest{name: "python", kernel: labtest.Kernel("6.12"), console: ptyWithLog(h.path("python.console")),
		devices: "<controller type='pci' index='1' model='pcie-root-port'/><controller type='pci' index='2' model='pcie-root-port'/>"})
	image := h.image("python.img", 8)
	cmd := exec.Command("python3", "testdata/clients/guest.py", h.uri(), name, image)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs.String())
	}
	const want = `  resumed 0
  started 0
state [1, 1] active 1
cpu time True memory True
  suspended 0
  resumed 0
  added virtio-disk1
written 65536
  removed virtio-disk1
error 55 10 Requested operation is not valid: domain is already running
  shutdown 1
  stopped 0
state [5, 1]
`
	if string(out) != want {
		t.Errorf("got:\n%s\nwant:\n%s", out, want)
	}
}

// go-libvirt with a Linux guest: its start, what it says on its console, its numbers, its end, and the events of all that.
func TestLabGoLibvirt(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(h.path("sock/libvirt-sock"))))
	if err := l.Connect(); err != nil {
		t.Fatal(err)
	}
	defer l.Disconnect()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	events, err := l.LifecycleEvents(t.Context())
	check("events", err)
	dom, err := l.DomainDefineXML(guest{name: "go", kernel: labtest.Kernel("6.1"), memory: 128, console: "<serial type='pty'/>"}.xml(h))
	check("define", err)
	check("start", l.DomainCreate(dom))
	r, w := io.Pipe()
	console := make(chan error, 1)
	go func() { console <- l.DomainOpenConsole(dom, nil, w, 0); w.Close() }()
	shell := false
	for sc := bufio.NewScanner(r); !shell && sc.Scan(); {
		shell = strings.Contains(sc.Text(), "LAB-GUEST: shell")
	}
	if !shell {
		t.Fatal("the console ended before the guest's shell")
	}
	go io.Copy(io.Discard, r)
	state, reason, err := l.DomainGetState(dom, 0)
	check("state", err)
	if state != int32(libvirt.DomainRunning) || reason != int32(libvirt.DomainRunningBooted) {
		t.Errorf("state %d, reason %d", state, reason)
	}
	_, _, _, _, cpu, err := l.DomainGetInfo(dom)
	check("info", err)
	if cpu == 0 {
		t.Error("the guest took no CPU time")
	}
	check("shutdown", l.DomainShutdown(dom))
	if err := <-console; err != nil {
		t.Errorf("console: %v", err)
	}
	for _, want := range []libvirt.DomainEventType{libvirt.DomainEventDefined, libvirt.DomainEventResumed, libvirt.DomainEventStarted, libvirt.DomainEventShutdown, libvirt.DomainEventStopped} {
		select {
		case e := <-events:
			if e.Event != int32(want) {
				t.Errorf("event %d, want %d", e.Event, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("no event %d", want)
		}
	}
	check("undefine", l.DomainUndefine(dom))
}
