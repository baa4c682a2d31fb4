package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor"
	"virtd/lab/labtest"
)

// send runs one monitor command with a descriptor on a connection that stays open.
type monitorConn struct {
	t *testing.T
	c *net.UnixConn
	r *bufio.Reader
}

func (e *engine) connect() *monitorConn {
	e.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: e.socket, Net: "unix"})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	m := &monitorConn{e.t, c, bufio.NewReader(c)}
	m.reply(time.Minute)
	m.ask(time.Minute, `{"execute":"qmp_capabilities"}`)
	return m
}

// ask sends a command, with descriptors, and returns its reply, "" when there is none in time.
func (m *monitorConn) ask(within time.Duration, command string, files ...*os.File) string {
	m.t.Helper()
	var oob []byte
	for _, f := range files {
		oob = unix.UnixRights(int(f.Fd()))
	}
	if _, _, err := m.c.WriteMsgUnix([]byte(command+"\n"), oob, nil); err != nil {
		m.t.Fatal(err)
	}
	return m.reply(within)
}

func (m *monitorConn) reply(within time.Duration) string {
	m.c.SetReadDeadline(time.Now().Add(within))
	for {
		line, err := m.r.ReadString('\n')
		if err != nil || !strings.Contains(line, `"event"`) {
			return line
		}
	}
}

// allDevices gives a machine a disk, both kinds of network card, a balloon, entropy and a virtio console.
func allDevices(t *testing.T, h *handConfig, dir string) {
	t.Helper()
	c := &h.Config
	c.CPU.Count, c.CPU.Online = 2, 2
	bus := uint8(0)
	next := func() hypervisor.PCIAddress { // behind the next root port
		bus++
		c.RootPorts = append(c.RootPorts, hypervisor.RootPort{ID: fmt.Sprintf("pci.%d", bus), Index: bus,
			Address: hypervisor.PCIAddress{Slot: 2, Function: bus - 1}, Multi: bus == 1, Chassis: bus, Port: 0xf + bus})
		return hypervisor.PCIAddress{Bus: bus}
	}
	disk := filepath.Join(dir, "disk")
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	h.Open["disk"], h.Open["tap0"], h.Open["tap1"], h.Open["vhost1"] = disk, "tap:labt0", "tap:labt1", "/dev/vhost-net"
	h.Open["hvc"] = "create:" + filepath.Join(dir, "hvc")
	c.Disks = []hypervisor.Disk{{ID: "virtio-disk0", Address: next(), File: "disk", Format: "raw"}}
	c.NICs = []hypervisor.NIC{
		{ID: "net0", Address: next(), MAC: "52:54:00:00:00:01", Driver: "qemu", Queues: 1, Taps: []hypervisor.FileName{"tap0"}},
		{ID: "net1", Address: next(), MAC: "52:54:00:00:00:02", Driver: "vhost", Queues: 1, Taps: []hypervisor.FileName{"tap1"}, Vhosts: []hypervisor.FileName{"vhost1"}},
	}
	c.Balloon = &hypervisor.Balloon{ID: "balloon0", Address: next(), Target: c.Memory.Size}
	c.RNGs = []hypervisor.RNG{{ID: "rng0", Address: next()}}
	c.Consoles = []hypervisor.Console{{ID: "console1", Address: next(), Chardev: hypervisor.Chardev{Type: "file", File: "hvc"}}}
}

// TestLabSave: a Linux guest that uses every kind of device goes on in another engine process.
func TestLabSave(t *testing.T) { saveRestore(t, false) }

// TestLabSavePacked: the same with packed virtqueues, but for those that the kernel serves.
func TestLabSavePacked(t *testing.T) { saveRestore(t, true) }

func saveRestore(t *testing.T, packed bool) {
	t.Helper()
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet)
	tap(t, "labt0", "10.77.0.1/24")
	tap(t, "labt1", "10.77.1.1/24")
	dir := t.TempDir()
	configure := func() *handConfig {
		h := linux(t, "6.1")
		allDevices(t, h, dir)
		c := &h.Config
		for _, d := range []*hypervisor.Transport{&c.Disks[0].Transport, &c.NICs[0].Transport, &c.Balloon.Transport, &c.RNGs[0].Transport, &c.Consoles[0].Transport} {
			d.Packed = packed
		}
		return h
	}
	a := boot(t, configure())
	a.Expect("LAB-GUEST: shell", 6*time.Minute)
	a.Expect("# ", time.Minute)
	a.run("modprobe -a virtio_blk virtio_net virtio_balloon virtio_console virtio_rng; sleep 1; ls /dev/vda")
	for i := range 2 {
		a.run(fmt.Sprintf("ip link set eth%d up; ip addr add 10.77.%d.2/24 dev eth%d || true; ping -c 2 -W 5 10.77.%d.1", i, i, i, i))
	}
	a.run("echo hello > /tmp/f; exec 5</tmp/f; printf 'before' | dd of=/dev/vda conv=fsync 2>/dev/null; echo before > /dev/hvc0")
	var up, now float64
	fmt.Sscan(a.run("cut -d' ' -f1 /proc/uptime"), &up)

	state := filepath.Join(dir, "state")
	f, err := os.Create(state)
	if err != nil {
		t.Fatal(err)
	}
	m, start := a.connect(), time.Now()
	if reply := m.ask(4*time.Minute, `{"execute":"x-virtd-save"}`, f); !strings.Contains(reply, "return") {
		t.Fatalf("save: %q", reply)
	}
	t.Logf("saved in %v", time.Since(start).Round(time.Millisecond))
	f.Close()
	m.ask(time.Minute, `{"execute":"x-virtd-save-commit"}`)
	m.ask(time.Minute, `{"execute":"x-virtd-quit","arguments":{"reason":"saved"}}`)
	a.wantEnd(hypervisor.ExitQuit)

	h := configure()
	h.Config.Incoming, h.Config.Paused = "incoming", true
	h.Open["incoming"] = state
	start = time.Now()
	b := boot(t, h)
	for range 600 {
		if _, err := os.Stat(b.socket); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	m = b.connect()
	m.ask(4*time.Minute, `{"execute":"x-virtd-hello","arguments":{"version":1}}`) // answered when the machine is there
	t.Logf("restored in %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	if reply := m.ask(time.Minute, `{"execute":"cont"}`); !strings.Contains(reply, "return") {
		b.cmd.Process.Signal(syscall.SIGQUIT) // shows where it hangs
		time.Sleep(5 * time.Second)
		t.Fatalf("cont: %q", reply)
	}
	t.Logf("went on after %v", time.Since(start).Round(time.Millisecond))
	if got := b.run("cat <&5; dd if=/dev/vda bs=6 count=1 2>/dev/null"); !strings.Contains(got, "hello") || !strings.Contains(got, "before") {
		t.Errorf("the open file and the disk have %q", got)
	}
	fmt.Sscan(b.run("cut -d' ' -f1 /proc/uptime"), &now)
	if now < up || now > up+60 {
		t.Errorf("uptime was %v and is %v", up, now)
	}
	want := map[bool]string{false: "6 0", true: "5 1"}[packed]
	if got := b.run("cut -c35 /sys/bus/virtio/devices/*/features | sort | uniq -c"); !strings.Contains(got, want) { // feature 34
		t.Errorf("not %q, devices with packed virtqueues (1) or split ones (0):\n%s", want, got)
	}
	b.run("printf 'behind' | dd of=/dev/vda conv=fsync 2>/dev/null; echo behind > /dev/hvc0; dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c")
	for i := range 2 {
		b.run(fmt.Sprintf("ping -c 2 -W 10 10.77.%d.1", i))
	}
	if bad := b.run("dmesg | grep -iE 'soft lockup|stall|clocksource.*unstable|call trace|timed out' || true"); bad != "" {
		t.Errorf("the kernel complains:\n%s", bad)
	}
	b.run("taskset 2 true 2>/dev/null || true; grep -c ^processor /proc/cpuinfo")
	b.Send("poweroff -f\n")
	b.wantEnd(hypervisor.ExitShutdown)
	if data, err := os.ReadFile(filepath.Join(dir, "disk")); err != nil || !strings.HasPrefix(string(data), "behind") {
		t.Errorf("the image has %q, %v", data[:16], err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "hvc")); !strings.Contains(string(data), "behind") {
		t.Errorf("the virtio console's file has %q", data)
	}
}
