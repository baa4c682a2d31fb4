package net_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"virtd/hypervisor"
	"virtd/hypervisor/memory"
	"virtd/lab/labtest"
)

// The tests of transfers boot a Linux guest on a bridge and move 100 MiB (8 with -short) each way through one kind of
// back end, comparing checksums. They look at queue counts and per-queue interrupts too.

func TestLabTransfer(t *testing.T)            { transfer(t, "qemu", 1) }
func TestLabTransferQueues(t *testing.T)      { transfer(t, "qemu", 4) }
func TestLabTransferVhost(t *testing.T)       { transfer(t, "vhost", 1) }
func TestLabTransferVhostQueues(t *testing.T) { transfer(t, "vhost", 4) }

// streams is how many connections share the data: enough for every queue to see some.
const streams = 8

// transferSize is how many bytes move each way.
func transferSize() int {
	if testing.Short() {
		return 8 << 20
	}
	return 100 << 20
}

func transfer(t *testing.T, driver string, queues int) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet)
	name := bridge(t, queues)
	peer := newPeer(t, transferSize()/streams)
	out := guest(t, name, driver, queues, guestScript(queues))
	checkStreams(t, out, peer)
	checkQueues(t, out, queues)
}

// checkStreams compares what went each way with what arrived.
func checkStreams(t *testing.T, out string, peer *peer) {
	t.Helper()
	sent := regexp.MustCompile(`(?m)^SUM ([0-9a-f]{32})`).FindAllStringSubmatch(out, -1)
	var got []string
	for _, m := range sent {
		got = append(got, m[1])
	}
	if len(got) != streams {
		t.Fatalf("the guest tells of %d streams:\n%s", len(got), out)
	}
	for _, sum := range got {
		if sum != peer.sum {
			t.Errorf("the guest received a stream with the sum %s, sent was %s", sum, peer.sum)
		}
	}
	received := peer.results()
	if len(received) != streams {
		t.Errorf("%d streams came back", len(received))
	}
	for _, sum := range received {
		if sum != peer.sum {
			t.Errorf("a stream came back with the sum %s, sent was %s", sum, peer.sum)
		}
	}
}

// guestScript is what the guest does. It prints what checkQueues and transfer look at.
func guestScript(queues int) string {
	s := `ping -c 3 -W 5 10.9.0.1 || exit 1
`
	if queues > 1 {
		s += fmt.Sprintf("ethtool -L eth0 combined 2 && echo COMBINED-2 $(ethtool -l eth0 | grep Combined)\nethtool -L eth0 combined %d || exit 2\n", queues)
	}
	return s + `echo COMBINED $(ethtool -l eth0 | grep Combined)
grep -E 'virtio[0-9]+-(in|out)put' /proc/interrupts | sed 's/^/BEFORE /'
for i in $(seq ` + fmt.Sprint(streams) + `); do (cat </dev/tcp/10.9.0.1/7000 >/tmp/x$i; echo "SUM $(md5sum </tmp/x$i)") & done
wait
for i in $(seq ` + fmt.Sprint(streams) + `); do cat /tmp/x$i >/dev/tcp/10.9.0.1/7001 & done
wait
# what was written is still on its way: a connection is through when the other side has acknowledged its end
for i in $(seq 200); do awk 'NR > 1 { print $4 }' /proc/net/tcp | grep -qE '^(01|04|09|0B)' || break; sleep 1; done
grep -E 'virtio[0-9]+-(in|out)put' /proc/interrupts | sed 's/^/AFTER /'
exit 0
`
}

// checkQueues compares what ethtool and /proc/interrupts said.
func checkQueues(t *testing.T, out string, queues int) {
	t.Helper()
	if want := fmt.Sprintf("COMBINED Combined: %d Combined: %d\n", queues, queues); !strings.Contains(out, want) {
		t.Errorf("ethtool -l does not show %d queues, in use and possible:\n%s", queues, out)
	}
	if want := "COMBINED-2 Combined: 4 Combined: 2\n"; queues == 4 && !strings.Contains(out, want) {
		t.Errorf("ethtool -L to 2 has no effect:\n%s", out)
	}
	moved := map[string]int{}
	before, after := interrupts(out, "BEFORE"), interrupts(out, "AFTER")
	for name, n := range after {
		if n > before[name] {
			moved[name[strings.LastIndex(name, "-")+1:len(name)-2]]++
		}
	}
	// The kernel chooses queues by hashes of the streams: not each must get one.
	if want := min(queues, 2); moved["input"] < want || len(after) < 2*queues {
		t.Errorf("interrupts of %d receive queues moved (%d wanted), of %d vectors:\n%s", moved["input"], want, len(after), out)
	}
}

// interrupts sums the counts of lines that begin with tag, by name.
func interrupts(out, tag string) map[string]int {
	sums := map[string]int{}
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != tag {
			continue
		}
		for _, s := range f[2 : len(f)-1] {
			var n int
			if _, err := fmt.Sscanf(s, "%d", &n); err == nil && regexp.MustCompile(`^[0-9]+$`).MatchString(s) {
				sums[f[len(f)-1]] += n
			}
		}
	}
	return sums
}

// bridge makes a bridge with the host's address and a tap on it, and returns the tap's name.
func bridge(t *testing.T, queues int) string {
	t.Helper()
	tap := []string{"tuntap", "add", "dev", "labn0", "mode", "tap", "vnet_hdr"}
	if queues > 1 {
		tap = append(tap, "multi_queue")
	}
	for _, args := range [][]string{
		{"link", "add", "labn", "type", "bridge"}, {"addr", "add", "10.9.0.1/24", "dev", "labn"}, {"link", "set", "labn", "up"},
		tap, {"link", "set", "labn0", "master", "labn", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		exec.Command("ip", "link", "del", "labn0").Run()
		exec.Command("ip", "link", "del", "labn").Run()
	})
	return "labn0"
}

// peer is the host's end of the streams: port 7000 sends, port 7001 receives.
type peer struct {
	data []byte
	sum  string
	mu   sync.Mutex
	got  []string
	wg   sync.WaitGroup
}

func newPeer(t *testing.T, size int) *peer {
	t.Helper()
	p := &peer{data: make([]byte, size)}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p.data {
		p.data[i] = byte(r.Uint32())
	}
	sum := md5.Sum(p.data)
	p.sum = hex.EncodeToString(sum[:])
	p.listen(t, "10.9.0.1:7000", func(c net.Conn) { io.Copy(c, bytes.NewReader(p.data)) })
	p.listen(t, "10.9.0.1:7001", func(c net.Conn) {
		h := md5.New()
		n, err := io.Copy(h, c)
		p.mu.Lock()
		p.got = append(p.got, hex.EncodeToString(h.Sum(nil)))
		if n != int64(size) {
			t.Errorf("a stream of %d bytes came back with %d: %v", size, n, err)
		}
		p.mu.Unlock()
	})
	return p
}

func (p *peer) listen(t *testing.T, address string, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Add(1)
			go func() {
				defer p.wg.Done()
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

func (p *peer) results() []string {
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got
}

// guest runs script in a Linux guest with one NIC and returns what it printed.
func guest(t *testing.T, tap, driver string, queues int, script string) string {
	t.Helper()
	nic := hypervisor.NIC{ID: "net0", Address: hypervisor.PCIAddress{Slot: 4}, MAC: "52:54:00:00:00:02", Driver: driver, Queues: queues}
	return guestWith(t, []string{tap}, script, nic)
}

// guestWith is guest with NICs that are described but for their files, each on a tap.
func guestWith(t *testing.T, taps []string, script string, nics ...hypervisor.NIC) string {
	t.Helper()
	return run(t, machine(t, taps, script, nics...))
}

// handed is a machine for virtd-vmm --config.
type handed struct {
	Open   map[hypervisor.FileName]string `json:"open"`
	Config hypervisor.Config              `json:"config"`
}

// machine is one that runs script, with NICs as guestWith has them.
func machine(t *testing.T, taps []string, script string, nics ...hypervisor.NIC) handed {
	t.Helper()
	k := labtest.Kernel("6.1")
	initrd := labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": "#!/bin/bash\n" + script})
	open := map[hypervisor.FileName]string{"kernel": k.Image, "initrd": initrd, "serial": "stdio"}
	queues := 0
	for i := range nics {
		queues += nics[i].Queues
		openQueues(open, &nics[i], taps[i])
	}
	return handed{open, hypervisor.Config{
		Version: 1, Name: "labnet", Machine: hypervisor.MachineQ35,
		CPU:    hypervisor.CPU{Count: queues, Online: queues, Mode: hypervisor.CPUHostPassthrough},
		Memory: hypervisor.Memory{Size: 640 << 20, Backing: memory.Backing{Kind: memory.Anonymous}},
		Boot:   hypervisor.Boot{Kernel: "kernel", Initrd: "initrd", Cmdline: labtest.QuietCmdline + " lab.net=eth0:10.9.0.2/24@10.9.0.1"},
		Clock:  hypervisor.Clock{PIT: true}, OnReboot: hypervisor.ActionStop, OnCrash: hypervisor.ActionStop,
		Serials: []hypervisor.Serial{{ID: "serial0", Chardev: hypervisor.Chardev{Type: "unix", File: "serial"}}},
		NICs:    nics,
		Confine: hypervisor.Confine{Seccomp: true, Landlock: true},
	}}
}

// openQueues names the files of a NIC's queues.
func openQueues(open map[hypervisor.FileName]string, nic *hypervisor.NIC, tap string) {
	for i := range nic.Queues {
		f := hypervisor.FileName(fmt.Sprint(nic.ID, "tap", i))
		open[f], nic.Taps = "tap:"+tap, append(nic.Taps, f)
		if nic.Driver == "vhost" {
			f := hypervisor.FileName(fmt.Sprint(nic.ID, "vhost", i))
			open[f], nic.Vhosts = "/dev/vhost-net", append(nic.Vhosts, f)
		}
	}
}

// run runs a guest to the end of its script, and returns what it printed.
func run(t *testing.T, m handed) string {
	t.Helper()
	config, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
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
	defer cmd.Wait()
	defer cmd.Process.Kill()
	console := labtest.NewConsole(t, out, in)
	console.Expect("LAB-GUEST: ready", 2*time.Minute)
	text := strings.ReplaceAll(console.Expect("LAB-RC: ", 5*time.Minute), "\r", "")
	if rc := strings.TrimSpace(console.Expect("\n", time.Minute)); rc != "0" {
		t.Fatalf("the guest's script ended with %s:\n%s", rc, text)
	}
	return text
}

// TestLabDriverOptions boots a guest on interfaces whose transport, rings and offloads are not as usual, and asks its driver.
func TestLabDriverOptions(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun, labtest.VhostNet)
	odd := hypervisor.NIC{
		ID: "net0", Address: hypervisor.PCIAddress{Slot: 4}, MAC: "52:54:00:00:00:02", Driver: "vhost", Queues: 1,
		MTU: 1400, RxQueueSize: 512, TxQueueSize: 1024, NoEventIdx: true,
		Offloads:  map[string]bool{"host.tso4": false, "guest.tso4": false, "guest.tso6": false, "host.mrg_rxbuf": false},
		Transport: hypervisor.Transport{AccessPlatform: true, PagePerVQ: true, NoIOEventFD: true},
	}
	standby := hypervisor.NIC{ID: "net1", Address: hypervisor.PCIAddress{Slot: 5}, MAC: "52:54:00:00:00:03", Driver: "qemu", Queues: 1, Standby: true}
	standby.PagePerVQ, standby.AccessPlatform = true, true
	taps := []string{bridge(t, 1), "labn1"}
	if out, err := exec.Command("ip", "tuntap", "add", "dev", taps[1], "mode", "tap", "vnet_hdr").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer exec.Command("ip", "link", "del", taps[1]).Run()
	out := guestWith(t, taps, `ping -c 3 -W 5 10.9.0.1 || exit 1
`+tellFeatures+`cat /sys/class/net/eth0/mtu | sed 's/^/MTU /'
ethtool -g eth0 | sed -n '/Current/,$ s/^\(.X\):[[:space:]]*/RING \1 /p'
ethtool -k eth0 | sed -n 's/tx-tcp-segmentation/TSO/p'
echo STANDBY $(grep -l 52:54:00:00:00:03 /sys/class/net/*/address | wc -l)
exit 0
`, odd, standby)
	for _, want := range []string{"MTU 1400\n", "RING RX 512\n", "RING TX 1024\n", "TSO: off [fixed]", "STANDBY 2\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the guest does not say %q:\n%s", want, out)
		}
	}
	checkFeatures(t, out, map[string]map[int]byte{
		"0000:00:04.0": {eventIdx: '0', accessPlatform: '1', isStandby: '0', mergeable: '0', packed: '0'},
		"0000:00:05.0": {eventIdx: '1', accessPlatform: '1', isStandby: '1', mergeable: '1', packed: '0'},
	})
}

// Feature bits as guests number them (virtio 1.2, 5.1.3 and 6).
const mergeable, eventIdx, version1, accessPlatform, packed, isStandby = 15, 29, 32, 33, 34, 62

// tellFeatures has a guest print the features that its drivers accepted, by PCI address.
const tellFeatures = `for d in /sys/bus/virtio/devices/*; do echo "FEATURES $(basename $(readlink -f $d/..)) $(cat $d/features)"; done
`

func checkFeatures(t *testing.T, out string, want map[string]map[int]byte) {
	t.Helper()
	for slot, want := range want {
		m := regexp.MustCompile(`FEATURES ` + slot + ` ([01]{64})`).FindStringSubmatch(out)
		if m == nil {
			t.Errorf("no features of %s:\n%s", slot, out)
			continue
		}
		for bit, value := range want {
			if m[1][bit] != value {
				t.Errorf("%s: feature %d is %c: %s", slot, bit, m[1][bit], m[1])
			}
		}
	}
}

// TestLabTransferPacked is a transfer over packed virtqueues, in a guest whose disk, entropy device, console and balloon have
// them too.
func TestLabTransferPacked(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Tun)
	const queues, blocks = 2, 4                                          // of 1 MiB
	tap, peer := bridge(t, queues), newPeer(t, transferSize()/streams/4) // split ones get all
	dir := t.TempDir()
	disk, hvc := filepath.Join(dir, "disk"), filepath.Join(dir, "hvc")
	data := make([]byte, blocks<<20)
	for i := range data {
		data[i] = byte(i>>9 ^ i)
	}
	if err := os.WriteFile(disk, append(data, make([]byte, len(data))...), 0o600); err != nil {
		t.Fatal(err)
	}
	nic := hypervisor.NIC{ID: "net0", Address: hypervisor.PCIAddress{Slot: 4}, MAC: "52:54:00:00:00:02", Driver: "qemu", Queues: queues}
	script := `modprobe -a virtio_blk virtio_balloon virtio_console virtio-rng && for i in $(seq 100); do [ -b /dev/vda ] && [ -c /dev/hvc0 ] && break; sleep 0.1; done
` + tellFeatures + fmt.Sprintf(`dd if=/dev/vda of=/tmp/disk bs=1M count=%[1]d iflag=direct 2>/dev/null || exit 3
echo "DISK $(md5sum </tmp/disk)"
dd if=/tmp/disk of=/dev/vda bs=1M seek=%[1]d oflag=direct conv=fsync 2>/dev/null || exit 4
echo "ENTROPY $(dd if=/dev/hwrng bs=16 count=4 iflag=fullblock 2>/dev/null | wc -c)"
for i in $(seq 150); do echo "line $i" >/dev/hvc0; done
`, blocks) + guestScript(queues)
	m := machine(t, []string{tap}, script, nic)
	m.Open["disk"], m.Open["hvc"] = disk, "create:"+hvc
	c := &m.Config
	c.Disks = []hypervisor.Disk{{ID: "virtio-disk0", Address: hypervisor.PCIAddress{Slot: 5}, File: "disk", Format: "raw"}}
	c.RNGs = []hypervisor.RNG{{ID: "rng0", Address: hypervisor.PCIAddress{Slot: 6}}}
	c.Consoles = []hypervisor.Console{{ID: "console1", Address: hypervisor.PCIAddress{Slot: 7}, Chardev: hypervisor.Chardev{Type: "file", File: "hvc"}}}
	c.Balloon = &hypervisor.Balloon{ID: "balloon0", Address: hypervisor.PCIAddress{Slot: 8}, Target: c.Memory.Size}
	for _, d := range []*hypervisor.Transport{&c.NICs[0].Transport, &c.Disks[0].Transport, &c.RNGs[0].Transport, &c.Consoles[0].Transport, &c.Balloon.Transport} {
		d.Packed = true
	}
	out := run(t, m)

	features := map[string]map[int]byte{}
	for slot := 4; slot <= 8; slot++ {
		features[fmt.Sprintf("0000:00:%02x.0", slot)] = map[int]byte{version1: '1', packed: '1'}
	}
	checkFeatures(t, out, features)
	checkStreams(t, out, peer)
	checkQueues(t, out, queues)
	if sum := md5.Sum(data); !strings.Contains(out, "DISK "+hex.EncodeToString(sum[:])) || !strings.Contains(out, "ENTROPY 64\n") {
		t.Errorf("the guest reads something else from its disk, or has no entropy:\n%s", out)
	}
	if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, slices.Concat(data, data)) {
		t.Errorf("the guest wrote something else to its disk (%v)", err)
	}
	if got, err := os.ReadFile(hvc); err != nil || !strings.Contains(string(got), "line 1\r\n") || !strings.Contains(string(got), "line 150\r\n") {
		t.Errorf("the console has %q (%v)", got, err)
	}
}
