package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/lab/labtest"
)

// hostileDevice says which device TestHostileDevice, which is the guest's part of TestLabHostileDevice, maltreats.
const hostileDevice = "VIRTD_HOSTILE_DEVICE"

// TestLabHostileDevice: a guest writes at random into the configuration space, the BARs and the MSI-X table of a card of the host,
// and lets it do DMA to wherever. The host, its other devices and another guest, which has a virtual function, do not notice; the
// guest is destroyed, and the card works for the host again.
func TestLabHostileDevice(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	const nic, disk, vf, pf = "0000:02:00.0", "0000:03:00.0", "0000:01:10.0", "/sys/bus/pci/devices/0000:01:00.0"
	h.until(time.Minute, "disk", func() bool { return exists("/dev/nvme0n1") })
	peer := h.interfaceOf("0000:01:00.0")
	h.interfaceOf(nic)
	k := labtest.Kernel("6.12")
	victims := []string{}
	if !testing.Short() {
		h.ip("addr", "add", "10.79.0.1/24", "dev", peer)
		h.ip("link", "set", peer, "up")
		if err := os.WriteFile(pf+"/sriov_numvfs", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.WriteFile(pf+"/sriov_numvfs", []byte("0"), 0) })
		victims = append(victims, h.define(guest{name: "neighbour", kernel: k,
			initrd:  labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": neighbourScript}),
			devices: `<interface type='hostdev' managed='yes'><mac address='52:54:00:77:00:09'/><source><address type='pci' domain='0' bus='1' slot='0x10' function='0'/></source></interface>`}))
		h.vctl("start", victims[0])
		h.expect(victims[0], "round 1 ok", 7*time.Minute)
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	name := h.define(guest{name: "hostile", kernel: k, initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"attack": string(program), "cmd": attackScript}),
		memory: 384, devices: `<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='2' slot='0' function='0'/></source></hostdev>`})
	h.vctl("start", name)
	h.expect(name, "hostile: 3000 writes", 7*time.Minute)
	pid := h.engine(name)
	for _, v := range victims {
		rounds := strings.Count(h.output(v), " ok\n")
		h.expect(v, fmt.Sprintf("round %d ok", rounds+3), 2*time.Minute)
		if out := h.output(v); strings.Contains(out, "lost") {
			t.Errorf("the other guest says:\n%s", tail(out, 2000))
		}
	}
	h.sh("dd if=/dev/nvme0n1 of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null")
	if h.engine(name) != pid || !h.running(name) {
		t.Errorf("the engine of the hostile guest has ended: its guest could touch what the kernel does not let it")
	}
	h.vctl("destroy", name)
	h.until(time.Minute, "card back with its driver", func() bool { return driverOf(nic) == "e1000e" })
	card := h.interfaceOf(nic)
	h.ip("link", "set", card, "up")
	h.until(time.Minute, "carrier of the card", func() bool {
		carrier, _ := os.ReadFile("/sys/class/net/" + card + "/carrier")
		return strings.TrimSpace(string(carrier)) == "1"
	})
	h.wantDriver(disk, "nvme")
	for _, v := range victims {
		h.virsh("destroy", v)
		h.until(time.Minute, "function back", func() bool { return driverOf(vf) != "vfio-pci" })
	}
}

// running reports whether a domain's engine runs on.
func (h *host) running(name string) bool {
	return strings.Contains(h.vctl("domstate", name), "running")
}

const neighbourScript = `
for n in /sys/class/net/*; do [ $(basename $n) = lo ] || nic=$(basename $n); done
ip addr add 10.79.0.2/24 dev $nic; ip link set $nic up; sleep 3
round=0
while true; do
round=$((round+1))
if ping -c 3 -W 5 10.79.0.1 >/dev/null; then echo "round $round ok"; else echo "round $round lost"; fi
done
`

const attackScript = `
chmod +x /attack
for d in /sys/bus/pci/devices/*; do [ "$(cat $d/vendor)$(cat $d/device)" = 0x80860x10d3 ] && dev=$d; done
modprobe -r e1000e 2>/dev/null
[ -e $dev/driver ] && echo $(basename $dev) > $dev/driver/unbind
` + hostileDevice + `=$dev /attack -test.v -test.run '^TestHostileDevice$'
while true; do sleep 1; done
`

// TestHostileDevice is what runs in the guest of TestLabHostileDevice; elsewhere there is nothing to maltreat.
func TestHostileDevice(t *testing.T) {
	dev := os.Getenv(hostileDevice)
	if dev == "" {
		return
	}
	config, err := os.OpenFile(filepath.Join(dev, "config"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer config.Close()
	resources, err := os.ReadFile(filepath.Join(dev, "resource"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("hostile: resources\n%s", resources)
	set := func(at int64, p ...byte) { config.WriteAt(p, at) }
	set(4, 6, 0)
	var bars [][]byte
	for i := range 6 {
		f, err := os.OpenFile(filepath.Join(dev, fmt.Sprintf("resource%d", i)), os.O_RDWR|os.O_SYNC, 0)
		if err != nil {
			continue
		}
		size, _ := f.Seek(0, 2)
		if p, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			bars = append(bars, p)
		}
		f.Close()
	}
	fmt.Printf("hostile: %d BARs\n", len(bars))
	if len(bars) == 0 {
		t.Fatal("no BAR can be mapped")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := 1; ; n++ {
		switch r.IntN(8) {
		case 0, 1: // anything in configuration space
			p := binary.LittleEndian.AppendUint32(nil, r.Uint32())
			at := r.Int64N(256)
			if r.IntN(4) == 0 {
				at = r.Int64N(4096)
			}
			set(at&^3, p[:1<<r.IntN(3)]...)
		case 2: // COMMAND; mostly on, as bus master
			set(4, []byte{byte(r.IntN(8)), 7, 6, 7}[r.IntN(4)], byte(r.IntN(8)))
		case 3: // power
			set(0xcc, byte(r.IntN(4)), 0)
		default:
			bar := bars[r.IntN(len(bars))]
			at := r.IntN(len(bar)/4) * 4
			binary.LittleEndian.PutUint32(bar[at:], r.Uint32())
			_ = binary.LittleEndian.Uint32(bar[at:])
		}
		if n%1000 == 0 {
			fmt.Printf("hostile: %d writes\n", n)
		}
		if n == 20000 {
			return
		}
	}
}
