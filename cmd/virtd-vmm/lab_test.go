package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/hypervisor"
	"virtd/hypervisor/memory"
	"virtd/lab/labtest"
)

// engine is a running virtd-vmm with a Linux guest.
type engine struct {
	*labtest.Console
	t      *testing.T
	cmd    *exec.Cmd
	record string // path of the exit record
	socket string
}

// linux describes a guest that gives a shell on the serial console.
func linux(t *testing.T, version string) *handConfig {
	k := labtest.Kernel(version)
	return &handConfig{
		Config: hypervisor.Config{
			Version: 1, Name: "lab", UUID: "6d9a1cc6-8c1f-4bb0-9d59-2f3d4c0ff5a1", Machine: hypervisor.MachineQ35,
			CPU:    hypervisor.CPU{Count: 1, Online: 1, Mode: hypervisor.CPUHostPassthrough},
			Memory: hypervisor.Memory{Size: 256 << 20, Backing: memory.Backing{Kind: memory.Anonymous}},
			Boot:   hypervisor.Boot{Kernel: "kernel", Initrd: "initrd", Cmdline: labtest.QuietCmdline},
			Clock:  hypervisor.Clock{PIT: true}, PVPanic: true, OnReboot: hypervisor.ActionReset, OnCrash: hypervisor.ActionStop,
			Serials: []hypervisor.Serial{{ID: "serial0", Chardev: hypervisor.Chardev{Type: "unix", File: "serial"}}},
			Monitor: "monitor", ExitRecord: "record",
			Confine: hypervisor.Confine{Seccomp: true, Landlock: true},
		},
		Open: map[hypervisor.FileName]string{"kernel": k.Image, "initrd": k.Initrd, "serial": "stdio"},
	}
}

// boot starts the engine on h.
func boot(t *testing.T, h *handConfig) *engine {
	t.Helper()
	dir := t.TempDir()
	e := &engine{t: t, record: filepath.Join(dir, "record"), socket: filepath.Join(dir, "mon")}
	h.Open["monitor"] = "unix:" + e.socket
	h.Open["record"] = "create:" + e.record
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, data, 0o600); err != nil {
		t.Fatal(err)
	}
	e.cmd = exec.Command(labtest.Binary(t, "virtd-vmm"), "--config", config)
	in, err := e.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.cmd.Stderr = os.Stderr
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.cmd.Process.Kill(); e.cmd.Wait() })
	e.Console = labtest.NewConsole(t, out, in)
	return e
}

// shell waits for the guest's prompt.
func (e *engine) shell() {
	e.t.Helper()
	e.Expect("LAB-GUEST: shell", 2*time.Minute)
	e.Expect("# ", time.Minute)
}

// run types a command and returns what it printed. What the terminal echoes has quotes inside the markers.
func (e *engine) run(cmd string) string {
	e.t.Helper()
	e.Send("echo BE''GIN; " + cmd + "; echo RC''=$?\n")
	e.Expect("BEGIN\r\n", 2*time.Minute)
	out := e.Expect("RC=", 2*time.Minute)
	if rc := strings.TrimSpace(e.Expect("\n", time.Minute)); rc != "0" {
		e.t.Fatalf("%s: exit status %s\n%s", cmd, rc, out)
	}
	return strings.ReplaceAll(out, "\r", "")
}

// ask runs monitor commands on one connection and returns the last reply.
func (e *engine) ask(commands ...string) string {
	e.t.Helper()
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(c)
	reply := ""
	for _, cmd := range append([]string{"", `{"execute":"qmp_capabilities"}`}, commands...) {
		if cmd != "" {
			fmt.Fprintln(c, cmd)
		}
		for {
			if reply, err = r.ReadString('\n'); err != nil {
				e.t.Fatal(err)
			}
			if !strings.Contains(reply, `"event"`) {
				break
			}
		}
		if strings.Contains(reply, `"error"`) {
			e.t.Fatalf("%s: %s", cmd, reply)
		}
	}
	return reply
}

// wantEnd waits for the engine to leave with the reason in its exit record.
func (e *engine) wantEnd(reason hypervisor.ExitReason) {
	e.t.Helper()
	done := make(chan error, 1)
	go func() { done <- e.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			e.t.Errorf("virtd-vmm: %v", err)
		}
	case <-time.After(2 * time.Minute):
		e.t.Fatal("the engine does not leave")
	}
	data, err := os.ReadFile(e.record)
	if err != nil {
		e.t.Fatal(err)
	}
	var r hypervisor.ExitRecord
	if err := json.Unmarshal(data, &r); err != nil || r.Reason != reason {
		e.t.Errorf("exit record %s, want %s (%v)", data, reason, err)
	}
}

func TestLabShell(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	for _, c := range []struct {
		version string
		cpus    int
		machine string
		memory  uint64
	}{
		{"6.1", 1, hypervisor.MachineQ35, 256 << 20},
		{"6.12", 4, hypervisor.MachineQ35, 512 << 20},
		{"6.1", 4, hypervisor.MachinePC, 256 << 20},
		{"6.12", 1, hypervisor.MachineQ35, 5 << 30},
	} {
		t.Run(fmt.Sprintf("%s with %d vCPUs and %d MiB", c.version, c.cpus, c.memory>>20), func(t *testing.T) {
			h := linux(t, c.version)
			h.Config.CPU.Count, h.Config.CPU.Online = c.cpus, c.cpus
			h.Config.Machine, h.Config.Memory.Size = c.machine, c.memory
			e := boot(t, h)
			e.shell()
			if n := strings.TrimSpace(e.run("grep -c ^processor /proc/cpuinfo")); n != fmt.Sprint(c.cpus) {
				t.Errorf("the guest sees %s CPUs", n)
			}
			var kib uint64
			if _, err := fmt.Sscanf(e.run("grep MemTotal /proc/meminfo"), "MemTotal: %d kB", &kib); err != nil || kib<<10 < c.memory*3/4 || kib<<10 > c.memory {
				t.Errorf("the guest sees %d KiB of %d: %v", kib, c.memory>>10, err)
			}
			if id := strings.TrimSpace(e.run("cat /sys/class/dmi/id/product_uuid")); id != h.Config.UUID {
				t.Errorf("SMBIOS UUID %q", id)
			}
			if bad := e.run("dmesg | grep -iE 'firmware bug|acpi (bios )?error|call trace|soft lockup|rcu.*stall|cannot allocate' || true"); bad != "" {
				t.Errorf("the kernel complains:\n%s", bad)
			}
			e.Send("poweroff -f\n")
			e.wantEnd(hypervisor.ExitShutdown)
		})
	}
}

func TestLabLifecycle(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	e := boot(t, linux(t, "6.1"))
	e.shell()

	t.Log("pause: time stands still, nothing is lost")
	before := e.run("cut -d. -f1 /proc/uptime")
	e.ask(`{"execute":"stop"}`)
	if s := e.ask(`{"execute":"x-virtd-status"}`); !strings.Contains(s, "paused") {
		t.Errorf("status %s", s)
	}
	time.Sleep(30 * time.Second)
	e.ask(`{"execute":"cont"}`)
	var a, b int
	after := e.run("cut -d. -f1 /proc/uptime")
	fmt.Sscan(before, &a)
	fmt.Sscan(after, &b)
	if b-a > 20 {
		t.Errorf("30 s of pause show as %d s of uptime", b-a)
	}
	if bad := e.run("dmesg | grep -iE 'soft lockup|stall|clocksource.*unstable' || true"); bad != "" {
		t.Errorf("after the pause:\n%s", bad)
	}

	t.Log("the guest reboots in place")
	e.Send("reboot -f\n")
	e.shell()
	t.Log("the reset button, twice")
	for range 2 {
		e.ask(`{"execute":"system_reset"}`)
		e.shell()
	}
	t.Log("the power button")
	e.ask(`{"execute":"system_powerdown"}`)
	e.wantEnd(hypervisor.ExitShutdown)
}

func TestLabPanic(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := linux(t, "6.1")
	e := boot(t, h)
	e.shell()
	e.run("modprobe pvpanic-mmio || modprobe pvpanic || true; ls /sys/bus/acpi/devices | grep QEMU0001")
	e.Send("echo c > /proc/sysrq-trigger\n")
	// Debian's kernel has the pvpanic driver as a module; without it the guest reboots after the panic (panic=-1).
	done := make(chan struct{})
	go func() { e.cmd.Process.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatal("the engine goes on after a panic")
	}
	data, _ := os.ReadFile(e.record)
	if !strings.Contains(string(data), `"panic"`) {
		t.Errorf("exit record %s", data)
	}
}

// tap makes a tap that the engine can open again and gives it an address.
func tap(t *testing.T, name, address string) {
	t.Helper()
	for _, args := range [][]string{
		{"tuntap", "add", "dev", name, "mode", "tap", "multi_queue", "vnet_hdr"},
		{"addr", "add", address, "dev", name}, {"link", "set", name, "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", name).Run() })
}

func TestLabDevices(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet)
	tap(t, "labt0", "10.77.0.1/24")
	tap(t, "labt1", "10.77.1.1/24")
	h := linux(t, "6.12")
	c := &h.Config
	c.Memory.Size = 512 << 20
	c.CPU.Count, c.CPU.Online = 2, 2
	bus := uint8(0)
	next := func() hypervisor.PCIAddress { // behind the next root port
		bus++
		c.RootPorts = append(c.RootPorts, hypervisor.RootPort{ID: fmt.Sprintf("pci.%d", bus), Index: bus,
			Address: hypervisor.PCIAddress{Slot: 2, Function: bus - 1}, Multi: bus == 1, Chassis: bus, Port: 0xf + bus})
		return hypervisor.PCIAddress{Bus: bus}
	}
	dir := t.TempDir()
	for i := range 2 {
		path := filepath.Join(dir, fmt.Sprint("disk", i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 64<<20); err != nil {
			t.Fatal(err)
		}
		name := hypervisor.FileName(fmt.Sprint("disk", i))
		h.Open[name] = path
		c.Disks = append(c.Disks, hypervisor.Disk{ID: "virtio-" + string(name), Address: next(), File: name, Format: "raw", Serial: string(name)})
	}
	h.Open["tap0"], h.Open["tap1"], h.Open["vhost1"] = "tap:labt0", "tap:labt1", "/dev/vhost-net"
	c.NICs = []hypervisor.NIC{
		{ID: "net0", Address: next(), MAC: "52:54:00:00:00:01", Driver: "qemu", Queues: 1, Taps: []hypervisor.FileName{"tap0"}},
		{ID: "net1", Address: next(), MAC: "52:54:00:00:00:02", Driver: "vhost", Queues: 1, Taps: []hypervisor.FileName{"tap1"}, Vhosts: []hypervisor.FileName{"vhost1"}},
	}
	c.Balloon = &hypervisor.Balloon{ID: "balloon0", Address: next(), Target: c.Memory.Size, FreeReporting: true}
	c.RNGs = []hypervisor.RNG{{ID: "rng0", Address: next()}}
	h.Open["hvc"] = "create:" + filepath.Join(dir, "hvc")
	c.Consoles = []hypervisor.Console{{ID: "console1", Address: next(), Chardev: hypervisor.Chardev{Type: "file", File: "hvc"}}}

	e := boot(t, h)
	e.shell()
	e.run("modprobe virtio_blk; modprobe virtio_net; modprobe virtio_balloon; modprobe virtio_console; modprobe virtio_rng; sleep 1; ls /dev/vda /dev/vdb")
	if s := e.run("cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial"); !strings.Contains(s, "disk0") || !strings.Contains(s, "disk1") {
		t.Errorf("disk serials %q", s)
	}
	e.run("printf 'written by the guest' | dd of=/dev/vdb conv=fsync")
	for i := range 2 {
		e.run(fmt.Sprintf("ip link set eth%d up; ip addr add 10.77.%d.2/24 dev eth%d || true; ping -c 3 -W 5 10.77.%d.1", i, i, i, i))
	}
	if got := e.run("echo through-hvc > /dev/hvc0; dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c"); strings.TrimSpace(got) != "16" {
		t.Errorf("hwrng gave %q", got)
	}
	e.ask(`{"execute":"human-monitor-command","arguments":{"command-line":"balloon 300"}}`)
	for range 60 {
		if strings.Contains(e.ask(`{"execute":"human-monitor-command","arguments":{"command-line":"info balloon"}}`), "actual=300") {
			break
		}
		time.Sleep(time.Second)
	}
	if s := e.ask(`{"execute":"human-monitor-command","arguments":{"command-line":"info balloon"}}`); !strings.Contains(s, "actual=300") {
		t.Errorf("balloon: %s", s)
	}
	t.Log("statistics:", e.ask(`{"execute":"x-virtd-balloon-stats"}`), e.ask(`{"execute":"x-virtd-block-stats"}`), e.ask(`{"execute":"x-virtd-net-stats"}`))

	t.Log("pause and reboot with devices in use")
	e.ask(`{"execute":"stop"}`, `{"execute":"cont"}`)
	e.run("dd if=/dev/vdb bs=20 count=1")
	e.Send("reboot -f\n")
	e.shell()
	e.run("modprobe virtio_blk; modprobe virtio_net; sleep 1")
	if got := e.run("dd if=/dev/vdb bs=20 count=1 2>/dev/null"); !strings.Contains(got, "written by the guest") {
		t.Errorf("after the reboot the disk has %q", got)
	}
	e.run("ip link set eth1 up; ip addr add 10.77.1.2/24 dev eth1 || true; ping -c 3 -W 5 10.77.1.1")
	e.Send("poweroff -f\n")
	e.wantEnd(hypervisor.ExitShutdown)
	if data, err := os.ReadFile(filepath.Join(dir, "disk1")); err != nil || !strings.HasPrefix(string(data), "written by the guest") {
		t.Errorf("the image does not have what the guest wrote: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "hvc")); err != nil || !strings.Contains(string(data), "through-hvc") {
		t.Errorf("the virtio console's file has %q: %v", data, err)
	}
}
