package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor"
	"virtd/lab/labtest"
)

// plugger is a monitor connection that attaches and detaches.
type plugger struct {
	t *testing.T
	c *net.UnixConn
	r *bufio.Reader

	deleted map[string]bool // DEVICE_DELETED came
}

func (e *engine) plugger() *plugger {
	e.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: e.socket, Net: "unix"})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	p := &plugger{e.t, c, bufio.NewReader(c), map[string]bool{}}
	p.line()
	p.do(`{"execute":"qmp_capabilities"}`)
	return p
}

// line reads a message, notes events, and returns it.
func (p *plugger) line() string {
	p.t.Helper()
	p.c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	s, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("monitor: %v", err)
	}
	var m struct {
		Event string
		Data  struct{ Device string }
	}
	if json.Unmarshal([]byte(s), &m) == nil && m.Event == "DEVICE_DELETED" {
		p.deleted[m.Data.Device] = true
	}
	return s
}

// do runs a command and returns its reply.
func (p *plugger) do(cmd string, fds ...int) string {
	p.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := p.c.WriteMsgUnix([]byte(cmd+"\n"), oob, nil); err != nil {
		p.t.Fatal(err)
	}
	for {
		if s := p.line(); !strings.Contains(s, `"event"`) {
			return s
		}
	}
}

// attach sends a device with what to open for it, as in handConfig.
func (p *plugger) attach(a hypervisor.Attachment, files map[hypervisor.FileName]string) string {
	p.t.Helper()
	names, fds := []hypervisor.FileName{}, []int{}
	for name, what := range files {
		fd, err := open(what)
		if err != nil {
			p.t.Fatal(err)
		}
		defer unix.Close(fd)
		names, fds = append(names, name), append(fds, fd)
	}
	device, err := json.Marshal(a)
	if err != nil {
		p.t.Fatal(err)
	}
	list, _ := json.Marshal(names)
	return p.do(fmt.Sprintf(`{"execute":"x-virtd-attach","arguments":{"device":%s,"files":%s}}`, device, list), fds...)
}

// detach asks for a device and waits until the guest has let go of it.
func (p *plugger) detach(id string) {
	p.t.Helper()
	delete(p.deleted, id)
	if s := p.do(fmt.Sprintf(`{"execute":"x-virtd-detach","arguments":{"id":"%s"}}`, id)); strings.Contains(s, `"error"`) {
		p.t.Fatalf("detach %s: %s", id, s)
	}
	for !p.deleted[id] {
		p.line()
	}
}

func (p *plugger) want(reply, part string) {
	p.t.Helper()
	if !strings.Contains(reply, part) {
		p.t.Fatalf("got %s, want %s", reply, part)
	}
}

// openFDs counts the engine's descriptors.
func (e *engine) openFDs() int {
	e.t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.cmd.Process.Pid))
	if err != nil {
		e.t.Fatal(err)
	}
	return len(fds)
}

// until polls in the guest: what udev would wait for.
func until(condition string) string {
	return fmt.Sprintf("n=0; until %s; do n=$((n+1)); [ $n -lt 100 ] || break; sleep 0.2; done; %s", condition, condition)
}

// Disks, network devices and entropy sources come to a confined engine with a stock guest and go again, and leave no
// descriptor behind.
func TestLabHotplug(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet)
	for _, c := range []struct {
		machine string
		kernel  string
		cpus    int
	}{{hypervisor.MachineQ35, "6.1", 1}, {hypervisor.MachinePC, "6.12", 2}} {
		t.Run(c.machine, func(t *testing.T) {
			h := linux(t, c.kernel)
			h.Config.Machine = c.machine
			h.Config.CPU.Count, h.Config.CPU.Online = c.cpus, c.cpus
			at := func(n int) hypervisor.PCIAddress { return hypervisor.PCIAddress{Slot: uint8(4 + n)} }
			if c.machine == hypervisor.MachineQ35 {
				at = func(n int) hypervisor.PCIAddress { return hypervisor.PCIAddress{Bus: uint8(1 + n)} }
				for i := range uint8(4) {
					h.Config.RootPorts = append(h.Config.RootPorts, hypervisor.RootPort{ID: fmt.Sprintf("pci.%d", i+1), Index: i + 1,
						Address: hypervisor.PCIAddress{Slot: 2, Function: i}, Multi: i == 0, Chassis: i + 1, Port: 0x10 + i})
				}
			}
			e := boot(t, h)
			e.shell()
			hotplugRounds(t, e, at)
		})
	}
}

func hotplugRounds(t *testing.T, e *engine, at func(int) hypervisor.PCIAddress) {
	p := e.plugger()
	tap(t, "labh0", "10.78.0.1/24")
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := hypervisor.Attachment{Disk: &hypervisor.Disk{ID: "virtio-disk0", Address: at(0), File: "d", Format: "raw", Serial: "hot"}}
	fds := 0
	for round := range 3 {
		p.want(p.attach(disk, map[hypervisor.FileName]string{"d": image}), `"return"`)
		p.want(p.attach(disk, map[hypervisor.FileName]string{"d": image}), "Duplicate device ID")
		e.run("modprobe virtio_pci; modprobe virtio_blk; " + until("[ -b /dev/vda ]") + "; cat /sys/block/vda/serial")
		e.run(fmt.Sprintf("echo round %d | dd of=/dev/vda conv=fsync", round))
		nic := hypervisor.NIC{ID: "net0", Address: at(1), MAC: "52:54:00:00:00:11", Driver: "qemu", Queues: 1, Taps: []hypervisor.FileName{"t"}}
		files := map[hypervisor.FileName]string{"t": "tap:labh0"}
		if round%2 == 1 {
			nic.Driver, nic.Vhosts, files["v"] = "vhost", []hypervisor.FileName{"v"}, "/dev/vhost-net"
		}
		p.want(p.attach(hypervisor.Attachment{NIC: &nic}, files), `"return"`)
		e.run("modprobe virtio_net; " + until("[ -e /sys/class/net/eth0 ]") +
			"; ip link set eth0 up; ip addr add 10.78.0.2/24 dev eth0; ping -c 3 -W 5 10.78.0.1")
		p.want(p.attach(hypervisor.Attachment{RNG: &hypervisor.RNG{ID: "rng0", Address: at(2)}}, nil), `"return"`)
		e.run("modprobe virtio_rng; " + until("dd if=/dev/hwrng of=/dev/null bs=16 count=1"))
		p.want(p.do(`{"execute":"x-virtd-devices"}`), `["virtio-disk0","net0","rng0"]`)
		for _, id := range []string{"virtio-disk0", "net0", "rng0"} {
			p.detach(id)
		}
		p.want(p.do(`{"execute":"x-virtd-devices"}`), `[]`)
		e.run("[ ! -e /dev/vda ] && [ ! -e /sys/class/net/eth0 ]; ls /sys/bus/virtio/devices; [ -z \"$(ls /sys/bus/virtio/devices)\" ]")
		if data, err := os.ReadFile(image); err != nil || !bytes.HasPrefix(data, fmt.Appendf(nil, "round %d\n", round)) {
			t.Errorf("round %d: the image begins with %q (%v)", round, data[:16], err)
		}
		if now := e.openFDs(); fds != 0 && now > fds {
			t.Errorf("round %d: %d descriptors, after the first %d", round, now, fds)
		} else {
			fds = now
		}
	}
	p.want(p.do(`{"execute":"x-virtd-detach","arguments":{"id":"virtio-disk0"}}`), "DeviceNotFound")

	t.Log("a paused guest finds what came when it goes on; what it was asked for goes at the latest with a reset")
	p.do(`{"execute":"stop"}`)
	p.want(p.attach(disk, map[hypervisor.FileName]string{"d": image}), `"return"`)
	p.do(`{"execute":"cont"}`)
	e.run(until("[ -b /dev/vda ]") + "; dd if=/dev/vda bs=8 count=1")
	p.do(`{"execute":"stop"}`)
	p.want(p.do(`{"execute":"x-virtd-detach","arguments":{"id":"virtio-disk0"}}`), `"return"`)
	p.want(p.do(`{"execute":"x-virtd-detach","arguments":{"id":"virtio-disk0"}}`), "already in the process of unplug")
	p.do(`{"execute":"system_reset"}`)
	for !p.deleted["virtio-disk0"] {
		p.line()
	}
	p.do(`{"execute":"cont"}`)
	e.shell()
	if bad := e.run("dmesg | grep -iE 'acpi (bios )?error|call trace|BAR.*(assign|fail)|no space' || true"); strings.Contains(bad, "fail") || strings.Contains(bad, "rror") {
		t.Errorf("the kernel complains:\n%s", bad)
	}
	e.Send("poweroff -f\n")
	e.wantEnd(hypervisor.ExitShutdown)
}
