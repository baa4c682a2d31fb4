package e2e

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// savedGuest counts in one process, with a file open and every number on the disk, until it is told to end over the network.
const savedGuest = `
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
exec 7>>/tmp/open
n=0
while [ ! -e /tmp/end ]; do
  n=$((n+1))
  echo "line $n" >&7
  printf 'number %d\n' $n | dd of=/dev/vda bs=512 count=1 conv=sync,notrunc,fsync 2>/dev/null || echo disk failed
  echo "tick $n pid $$ up $(cut -d' ' -f1 /proc/uptime) lines $(wc -l </tmp/open) cpus $(nproc)"
  ping -c 1 -W 20 10.91.0.1 >/dev/null && ping -c 1 -W 20 10.92.0.1 >/dev/null || echo network failed
  sleep 0.5
done
`

// tick is one line of that guest.
type tick struct {
	number, pid, lines, cpus int
	up                       float64
}

var tickLine = regexp.MustCompile(`tick (\d+) pid (\d+) up ([\d.]+) lines (\d+) cpus (\d+)\r?\n`)

func ticks(out string) (list []tick) {
	for _, m := range tickLine.FindAllStringSubmatch(out, -1) {
		var n [6]int
		for i, s := range m {
			n[i], _ = strconv.Atoi(s)
		}
		up, _ := strconv.ParseFloat(m[3], 64)
		list = append(list, tick{n[1], n[2], n[4], n[5], up})
	}
	return list
}

// saveGap passes at least between a save and its restore. No round of the guest's loop takes that long.
const saveGap = 20 * time.Second

// saver is a guest that is saved again and again.
type saver struct {
	h      *host
	name   string
	before tick // the last one before the save
}

// note remembers how far the guest is; the console file is begun anew at each start.
func (s *saver) note() {
	s.h.t.Helper()
	var list []tick
	s.h.until(60*time.Second, "two ticks", func() bool { list = ticks(s.h.output(s.name)); return len(list) >= 2 })
	s.before = list[len(list)-1]
}

// goesOn checks that the same process goes on where it was, and that disk and network work.
func (s *saver) goesOn(image string) {
	h := s.h
	h.t.Helper()
	var list []tick
	h.until(90*time.Second, "ticks after the restore", func() bool { list = ticks(h.output(s.name)); return len(list) >= 3 })
	first := list[0]
	// what was on its way to the console when the guest was saved may be the first line, or be lost
	if first.pid != s.before.pid || first.number < s.before.number || first.number > s.before.number+6 || first.cpus != 2 {
		h.t.Errorf("after a restore the first line is %+v, before it the last was %+v", first, s.before)
	}
	if d := first.up - s.before.up; d < 0 || d > saveGap.Seconds() {
		h.t.Errorf("the guest's clock went on by %v s", d)
	}
	for i, tk := range list {
		if tk.number != first.number+i || tk.lines != tk.number {
			h.t.Errorf("line %d after the restore is %+v, the first %+v", i, tk, first)
		}
	}
	for _, addr := range []string{"10.91.0.2", "10.92.0.2"} {
		if out, err := exec.Command("ping", "-c", "2", "-W", "20", addr).CombinedOutput(); err != nil {
			h.t.Errorf("ping %s: %v\n%s", addr, err, out)
		}
	}
	h.until(30*time.Second, "the disk's number", func() bool {
		sector := make([]byte, 32)
		f, err := os.Open(image)
		if err != nil {
			h.t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.ReadAt(sector, 0); err != nil {
			h.t.Fatal(err)
		}
		n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(bytes.TrimRight(sector, "\x00")), "number ")))
		return n >= list[2].number
	})
	if out := h.output(s.name); strings.Contains(out, "failed") {
		h.t.Errorf("the guest reports:\n%s", tail(out, 2000))
	}
}

// A Linux guest with two vCPUs, a disk and two network cards is saved and restored, by image and managed, with virtd killed
// in between; a target that is full and a core dump change nothing for it.
func TestLabSaveRestore(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.VhostNet, labtest.Tun, labtest.Virsh)
	h := startHost(t)
	h.bridge("virtdbr0", "10.91.0.1/24")
	h.ip("addr", "add", "10.92.0.1/24", "dev", "virtdbr0")
	k := labtest.Kernel("6.1")
	image := h.image("data", 16)
	name := h.define(guest{name: "saved", kernel: k, memory: 256, vcpus: 2,
		initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": savedGuest}), args: "lab.net=eth0:10.91.0.2/24,eth1:10.92.0.2/24",
		devices: disk(image, "vda", "") + nic("virtdbr0", "qemu", 1) + nic("virtdbr0", "vhost", 1) +
			"<memballoon model='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"})
	h.vctl("start", name)
	h.expect(name, "tick 5 ", 150*time.Second)
	s := &saver{h: h, name: name}
	saveTo, events := h.path("image"), watchEvents(t, h)

	start := time.Now()
	h.virsh("save", name, saveTo)
	t.Logf("saved in %v", time.Since(start).Round(time.Millisecond))
	s.note()
	time.Sleep(saveGap)
	h.state(name, "shut off (saved)")
	h.until(10*time.Second, "the event", func() bool { return strings.Contains(events(), "Stopped Saved") })
	if st, err := os.Stat(saveTo); err != nil || st.Size() < 10<<20 || st.Size() > 256<<20 {
		t.Errorf("the image: %v, %v", st, err)
	}
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	events = watchEvents(t, h)
	start = time.Now()
	h.virsh("restore", saveTo)
	t.Logf("restored in %v", time.Since(start).Round(time.Millisecond))
	h.state(name, "running (restored)")
	h.until(10*time.Second, "the event", func() bool { return strings.Contains(events(), "Started Restored") })
	s.goesOn(image)

	if testing.Short() {
		s.dump()
		return
	}
	h.virsh("managedsave", name)
	s.note()
	time.Sleep(saveGap)
	h.state(name, "shut off (saved)")
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
	if out := h.virsh("list", "--all", "--managed-save"); !strings.Contains(out, "saved") {
		t.Errorf("list:\n%s", out)
	}
	h.refuses("Refusing to undefine while domain managed save image exists", "virsh", "undefine", name)
	h.vctl("start", name)
	h.state(name, "running (restored)")
	s.goesOn(image)

	fullTarget(t, h, name)
	s.dump()
	s.goesOn(image)
}

// fullTarget saves to a file system without room.
func fullTarget(t *testing.T, h *host, name string) {
	t.Helper()
	small := h.path("small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "none", small).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	defer exec.Command("umount", small).Run()
	h.refuses("no space left on device", "virsh", "save", name, small+"/image")
	h.refuses("no space left on device", "virsh", "dump", "--memory-only", name, small+"/core")
	if left, err := os.ReadDir(small); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	h.state(name, "running")
}

// dump takes a core file of the running guest and looks for its kernel in it. The guest goes on.
func (s *saver) dump() {
	t, h := s.h.t, s.h
	t.Helper()
	path := h.path("core")
	h.virsh("dump", "--memory-only", s.name, path)
	h.state(s.name, "running")
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, ram := false, uint64(0)
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_NOTE:
			notes, err := io.ReadAll(p.Open())
			if err != nil || bytes.Count(notes, []byte("CORE\x00")) != 2 || bytes.Count(notes, []byte("QEMU\x00")) != 2 {
				t.Errorf("%d bytes of notes, %v", len(notes), err)
			}
		case elf.PT_LOAD:
			ram += p.Memsz
			data, err := io.ReadAll(p.Open())
			if err != nil {
				t.Fatal(err)
			}
			found = found || bytes.Contains(data, []byte("Linux version 6.1"))
		}
	}
	if f.Type != elf.ET_CORE || ram != 256<<20 || !found {
		t.Errorf("core file of type %v with %d bytes of RAM, kernel banner found: %v", f.Type, ram, found)
	}
	// the console file goes on, so that what follows is counted from here
	s.before = ticks(h.output(s.name))[0]
}
