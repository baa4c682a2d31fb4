package blk_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor"
	"virtd/hypervisor/memory"
	"virtd/lab/labtest"
)

// labGuest is a Linux guest with the lab's tools and a data disk at /dev/vdb.
type labGuest struct {
	*labtest.Console
	t     *testing.T
	image string
	qmp   net.Conn
	lines *bufio.Reader
}

const labDisk = 64 << 20

func bootLab(t *testing.T, cpus int) *labGuest {
	t.Helper()
	dir := t.TempDir()
	g := &labGuest{t: t, image: filepath.Join(dir, "data")}
	if err := os.WriteFile(g.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(g.image, labDisk); err != nil {
		t.Fatal(err)
	}
	k := labtest.Kernel("6.12")
	socket := filepath.Join(dir, "monitor")
	c := hypervisor.Config{
		Version: 1, Name: "blk", UUID: "6d9a1cc6-8c1f-4bb0-9d59-2f3d4c0ff5a2", Machine: hypervisor.MachineQ35,
		CPU:    hypervisor.CPU{Count: cpus, Online: cpus, Mode: hypervisor.CPUHostPassthrough},
		Memory: hypervisor.Memory{Size: 384 << 20, Backing: memory.Backing{Kind: memory.Anonymous}},
		Boot:   hypervisor.Boot{Kernel: "kernel", Initrd: "initrd", Cmdline: labtest.QuietCmdline},
		Clock:  hypervisor.Clock{PIT: true}, OnReboot: hypervisor.ActionReset, OnCrash: hypervisor.ActionStop,
		Serials: []hypervisor.Serial{{ID: "serial0", Chardev: hypervisor.Chardev{Type: "unix", File: "serial"}}},
		Monitor: "monitor", Confine: hypervisor.Confine{Seccomp: true, Landlock: true},
	}
	for i, d := range []hypervisor.Disk{
		{ID: "virtio-disk0", File: "tools", Format: "raw", Serial: "labtools", ReadOnly: true},
		{ID: "virtio-disk1", File: "data", Format: "raw", Serial: "data", Discard: true},
	} {
		bus := uint8(i + 1)
		c.RootPorts = append(c.RootPorts, hypervisor.RootPort{ID: fmt.Sprintf("pci.%d", bus), Index: bus,
			Address: hypervisor.PCIAddress{Slot: bus}, Chassis: bus, Port: 8 * bus})
		d.Address = hypervisor.PCIAddress{Bus: bus}
		c.Disks = append(c.Disks, d)
	}
	config, err := json.Marshal(map[string]any{"config": c, "open": map[string]string{
		"kernel": k.Image, "initrd": k.Initrd, "serial": "stdio", "tools": labtest.ToolsDisk, "data": g.image, "monitor": "unix:" + socket,
	}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(labtest.Binary(t, "virtd-vmm"), "--config", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	g.Console = labtest.NewConsole(t, out, in)
	g.shell()
	if g.qmp, err = net.Dial("unix", socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.qmp.Close() })
	g.lines = bufio.NewReader(g.qmp)
	g.reply("greeting")
	g.ask(`{"execute":"qmp_capabilities"}`)
	return g
}

func (g *labGuest) shell() {
	g.t.Helper()
	g.Expect("LAB-GUEST: shell", 2*time.Minute)
	g.Expect("# ", time.Minute)
}

// run types a command and returns what it printed.
func (g *labGuest) run(cmd string) string {
	g.t.Helper()
	g.Send("echo BE''GIN; " + cmd + "; echo RC''=$?\n")
	g.Expect("BEGIN\r\n", 2*time.Minute)
	out := g.Expect("RC=", 4*time.Minute)
	if rc := strings.TrimSpace(g.Expect("\n", time.Minute)); rc != "0" {
		g.t.Fatalf("%s: exit status %s\n%s", cmd, rc, out)
	}
	return strings.TrimSpace(strings.ReplaceAll(out, "\r", ""))
}

func (g *labGuest) ask(command string) string {
	g.t.Helper()
	g.qmp.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintln(g.qmp, command); err != nil {
		g.t.Fatalf("%s: %v", command, err)
	}
	return g.reply(command)
}

func (g *labGuest) reply(to string) string {
	g.t.Helper()
	g.qmp.SetDeadline(time.Now().Add(time.Minute))
	for {
		line, err := g.lines.ReadString('\n')
		if err != nil || strings.Contains(line, `"error"`) {
			g.t.Fatalf("%s: %s (%v)", to, line, err)
		}
		if !strings.Contains(line, `"event"`) {
			return line
		}
	}
}

// verify writes random blocks of several sizes from one job for each CPU and reads them back with checksums.
func verify(cpus int) string {
	return fmt.Sprintf("fio --name=v --filename=/dev/vdb --numjobs=%d --cpus_allowed=0-%d --cpus_allowed_policy=split --offset_increment=8m --size=8m "+
		"--rw=randwrite --bsrange=4k-64k --direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --minimal >/tmp/fio", cpus, cpus-1)
}

// load is endless random I/O in the background, until fio is killed or the guest reset.
const load = "(fio --name=l --filename=/dev/vdb --rw=randrw --bs=4k --direct=1 --ioengine=libaio --iodepth=32 --time_based --runtime=600 --minimal >/dev/null 2>&1 &) ; sleep 2"

// TestLabDisk works a disk with one queue for each of four vCPUs from a Linux guest: checksums, per-queue interrupts,
// pauses and a reset in the middle of requests, discard and a new size.
func TestLabDisk(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	const cpus = 4
	g := bootLab(t, cpus)
	if n := g.run("ls -d /sys/block/vdb/mq/* | wc -l"); n != fmt.Sprint(cpus) {
		t.Errorf("the guest uses %s queues", n)
	}
	g.run(verify(cpus))
	requests := regexp.MustCompile(`(?m)^ *\d+:([ 0-9]+).*virtio1-req\.(\d)$`).FindAllStringSubmatch(g.run("cat /proc/interrupts"), -1)
	used := 0
	for _, m := range requests {
		if strings.Trim(m[1], " 0") != "" {
			used++
		}
	}
	if len(requests) != cpus || used != cpus {
		t.Errorf("interrupts of %d queues, %d of them moved", len(requests), used)
	}

	t.Log("pauses under load")
	g.run(load)
	for range 5 {
		g.ask(`{"execute":"stop"}`)
		g.ask(`{"execute":"cont"}`)
		time.Sleep(300 * time.Millisecond)
	}
	t.Log("reset under load")
	g.ask(`{"execute":"system_reset"}`)
	g.shell()
	g.run(verify(cpus))

	t.Log("the driver goes and comes under load")
	g.run(load)
	g.run("for i in 1 2 3; do echo virtio1 >/sys/bus/virtio/drivers/virtio_blk/unbind; echo virtio1 >/sys/bus/virtio/drivers/virtio_blk/bind; done; killall fio; sleep 1; ls /dev/vdb")
	g.run(verify(cpus))

	t.Log("discard and resize")
	before := allocated(t, g.image)
	g.run("blkdiscard /dev/vdb")
	if now := allocated(t, g.image); now >= before || now > 1<<20 {
		t.Errorf("%d bytes allocated after discarding everything, %d before", now, before)
	}
	g.ask(fmt.Sprintf(`{"execute":"block_resize","arguments":{"device":"virtio-disk1","size":%d}}`, 2*labDisk))
	if n := g.run("for i in 1 2 3 4 5 6 7 8 9 10; do n=$(cat /sys/block/vdb/size); [ $n = 262144 ] && break; sleep 1; done; echo $n"); n != fmt.Sprint(2*labDisk/512) {
		t.Errorf("the guest sees %s sectors", n)
	}
	g.run("dd if=/dev/zero of=/dev/vdb bs=4096 count=1 seek=32767 oflag=direct")
	if bad := g.run("dmesg | grep -iE 'i/o error|virtio_blk.*(fail|bad|id )|hung' || true"); bad != "" {
		t.Errorf("the guest complains:\n%s", bad)
	}
	t.Log(g.ask(`{"execute":"x-virtd-block-stats"}`))
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
