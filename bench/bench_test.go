package main

import (
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"virtd/domain"
)

// The idle benchmark reports small numbers, so it must be shown to see a thread that does wake.
func TestSleepsCountsWakeUps(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := strconv.Itoa(unix.Gettid())
	before, err := sleeps(os.Getpid(), tid)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		ts := unix.NsecToTimespec(int64(time.Millisecond))
		if err := unix.Nanosleep(&ts, nil); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	after, err := sleeps(os.Getpid(), tid)
	if err != nil {
		t.Fatal(err)
	}
	if after-before < 10 {
		t.Errorf("10 sleeps counted as %v", after-before)
	}
}

func TestRollupRefusesProcessWithoutGuest(t *testing.T) {
	if _, err := rollup(os.Getpid()); err == nil || !strings.Contains(err.Error(), "no guest RAM") {
		t.Errorf("error %v", err)
	}
}

// Both engines must be told the same machine.
func TestSameMachineForBoth(t *testing.T) {
	g := guest{kernel: "/k", initrd: "/i", args: "lab.net=x", memory: 64, huge: true, tap: "tap9", mac: "52:54:00:00:00:01", driver: driverVhost, queues: 4,
		disks: []disk{{path: "/a", serial: "labtools", readOnly: true}, {path: "/b", serial: "data"}}}
	qemu := g.qemu(boardTrimmed)
	p, err := g.virtd(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	var ours struct {
		Config struct {
			Boot   struct{ Cmdline string }
			Memory struct{ Size uint64 }
			Disks  []struct {
				Serial   string
				ReadOnly bool
			}
			NICs []struct {
				MAC, Driver  string
				Taps, Vhosts []string
			}
			CPU struct{ Count int }
		}
		Open map[string]string
	}
	if err := json.Unmarshal(data, &ours); err != nil {
		t.Fatal(err)
	}
	after := func(flag string) string { return qemu[slices.Index(qemu, flag)+1] }
	if ours.Config.Boot.Cmdline != after("-append") || ours.Config.Memory.Size != 64<<20 || after("-m") != "64" {
		t.Errorf("different machines: %+v, %q", ours.Config, qemu)
	}
	if len(ours.Config.Disks) != 2 || !ours.Config.Disks[0].ReadOnly || ours.Config.Disks[1].Serial != "data" || ours.Open["disk1"] != "/b" {
		t.Errorf("disks: %+v", ours)
	}
	if n := ours.Config.NICs[0]; n.Driver != driverVhost || len(n.Taps) != 4 || len(n.Vhosts) != 4 || ours.Config.CPU.Count != 4 || after("-smp") != "4" {
		t.Errorf("queues: %+v, %d vCPUs, %q", n, ours.Config.CPU.Count, qemu)
	}
	all := strings.Join(qemu, " ")
	for _, want := range []string{"file.filename=/b", "serial=data", "ifname=tap9", "vhost=on,queues=4,", "mq=on,vectors=10", "mac=" + ours.Config.NICs[0].MAC, "hugetlb=on"} {
		if !strings.Contains(all, want) {
			t.Errorf("the peer is not told %s: %s", want, all)
		}
	}
}

// The guest's lines come from a terminal.
func TestRatesInGuestOutput(t *testing.T) {
	for text, want := range map[string]string{
		"\x1b[6n[  5]   0.00-4.05   sec   301 MBytes   624 Mbits/sec                  receiver\r\n":   "624",
		"[SUM]   0.00-4.00   sec  1.24 MBytes  2.07 Mbits/sec  0.011 ms  10/906 (1.1%)  receiver\r\n": "2.07",
	} {
		if m := receivedRate.FindStringSubmatch(text); m == nil || m[1] != want {
			t.Errorf("iperf3: %q of %q", m, text)
		}
	}
	if m := median.FindStringSubmatch("RR 1234.5 701.2 1500.0\r\n"); m == nil || m[1] != "701.2" {
		t.Errorf("latency: %q", m)
	}
	if v, err := readFlood("FLOOD 800.10 400.05 50.00\n"); err != nil || !slices.Equal(v, []float64{800.1, 400.05, 50}) {
		t.Errorf("flood: %v, %v", v, err)
	}
	if _, err := readFlood("load: refused"); err == nil {
		t.Error("no flood at all passes")
	}
	if m := iops.FindAllStringSubmatch("        \"iops\" : 1207.519,\r\n        \"iops\" : 0.000000,\r\n", -1); len(m) != 2 || m[0][1] != "1207.519" {
		t.Errorf("fio: %q", m)
	}
}

// The processor time of a daemon is that of its threads, and grows as they work.
func TestProcessorTime(t *testing.T) {
	d := &daemon{pid: os.Getpid()}
	before, err := d.cpu()
	if err != nil {
		t.Fatal(err)
	}
	var use, now unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	for now = use; now.Utime.Nano()-use.Utime.Nano() < int64(30*time.Millisecond); {
		if err := unix.Getrusage(unix.RUSAGE_SELF, &now); err != nil {
			t.Fatal(err)
		}
	}
	after, err := d.cpu()
	if err != nil || after-before < 20*time.Millisecond {
		t.Errorf("30 ms of work count as %v, %v", after-before, err)
	}
}

// The document must say the same to both daemons but for the type.
func TestSameDocumentForBoth(t *testing.T) {
	dom := libvirt.Domain{Name: "d", UUID: libvirt.UUID{1}}
	ours := (&side{kind: virtdDaemon("virtd")}).document(dom)
	peers := (&side{kind: libvirtdDaemon()}).document(dom)
	if strings.Replace(ours, "type='kvm'", "type='qemu'", 1) != peers {
		t.Errorf("%s\n%s", ours, peers)
	}
	if _, err := domain.Parse(ours, domain.Options{}); err != nil {
		t.Error(err)
	}
}
