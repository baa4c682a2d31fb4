package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/hypervisor/block/qcow2"
	"virtd/lab/labtest"
)

// qcow2Image makes an image in the images' directory.
func (h *host) qcow2Image(name string, s qcow2.Settings) string {
	h.t.Helper()
	path := filepath.Join(h.images(), name)
	f, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if err := qcow2.Create(qcow2.OSFile{File: f}, s); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// sound checks an image by our checker, and by QEMU's where the lab has it.
func (h *host) sound(path string) {
	h.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	r, err := qcow2.Check(qcow2.OSFile{File: f})
	if err != nil || r.Leaks+r.Errors+r.Nonsense != 0 {
		h.t.Errorf("%s: %+v, %v", path, r, err)
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		h.t.Logf("%s: the lab has no qemu-img; our own checker found it sound", path)
		return
	}
	if out, err := exec.Command("qemu-img", "check", "-f", "qcow2", path).CombinedOutput(); err != nil {
		h.t.Errorf("qemu-img check %s: %v\n%s", path, err, out)
	} else {
		h.t.Logf("qemu-img check %s: %s", path, bytes.TrimSpace(out))
	}
}

// A guest on overlays of a chain reads what the base has, writes, and powers off: what it wrote is in the overlays, the
// backing images are as before, the images are sound.
func TestLabQcow2(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	const size = 64 << 20
	base := h.image("base.img", size>>20)
	data, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[1<<20:], "from-the-base\n")
	if err := os.WriteFile(base, data, 0o600); err != nil {
		t.Fatal(err)
	}
	middle := h.qcow2Image("middle.qcow2", qcow2.Settings{Size: size, BackingFile: "base.img", BackingFormat: "raw"})
	before, err := os.ReadFile(middle)
	if err != nil {
		t.Fatal(err)
	}
	modes := []string{"none", "writeback", "writethrough"}
	var devices string
	for i, mode := range modes {
		image := h.qcow2Image(fmt.Sprintf("top%d.qcow2", i), qcow2.Settings{Size: size, BackingFile: middle, BackingFormat: "qcow2",
			ExtendedL2: i == 1})
		xml := disk(image, fmt.Sprintf("vd%c", 'a'+i), fmt.Sprintf("<serial>DISK%d</serial>", i))
		devices += strings.Replace(xml, "type='raw'", fmt.Sprintf("type='qcow2' cache='%s' discard='unmap'", mode), 1)
	}
	run := "for i in 0 1 2; do for d in vda vdb vdc; do grep -q DISK$i /sys/block/$d/serial || continue; " +
		"dd if=/dev/$d bs=512 skip=2048 count=1 | head -c 13; echo; cat /sys/block/$d/size; " +
		"echo written-to-$i | dd of=/dev/$d bs=512 seek=4096 conv=sync,fsync; " +
		"dd if=/dev/urandom of=/dev/$d bs=64k seek=512 count=100 conv=fsync; done; done"
	name := h.define(guest{name: "qcow2", kernel: labtest.Kernel("6.1"), devices: devices, run: run, vcpus: 2})
	h.vctl("start", "--paused", name)
	xml := h.virsh("dumpxml", name)
	for _, want := range []string{"<backingStore type='file' index='2'>\n        <format type='qcow2'/>\n        <source file='" + middle + "'/>",
		"<backingStore type='file' index='3'>\n          <format type='raw'/>\n          <source file='" + base + "'/>"} {
		if !strings.Contains(xml, want) {
			t.Errorf("dumpxml has no %q:\n%s", want, xml)
		}
	}
	h.virsh("blockresize", name, "vda", "80M")
	if out := h.virsh("domblkinfo", name, "vda"); !strings.Contains(out, "Capacity:       83886080\n") {
		t.Errorf("domblkinfo:\n%s", out)
	}
	h.vctl("resume", name)
	h.finish(name, 400*time.Second)
	out := h.output(name)
	if n := strings.Count(out, "from-the-base"); n != 3 || !strings.Contains(out, "163840") {
		t.Errorf("the guest saw the base %d times:\n%s", n, tail(out, 2000))
	}
	after, err := os.ReadFile(middle)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the middle image has changed (%v)", err)
	}
	if now, err := os.ReadFile(base); err != nil || !bytes.Equal(now, data) {
		t.Errorf("the base has changed (%v)", err)
	}
	for i := range modes {
		path := filepath.Join(h.images(), fmt.Sprintf("top%d.qcow2", i))
		h.sound(path)
		h.holds(path, 4096*512, fmt.Sprintf("written-to-%d\n", i))
	}
}

// holds checks what an image over a chain without data there has at an offset.
func (h *host) holds(path string, off int64, want string) {
	h.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	q, err := qcow2.Open(qcow2.OSFile{File: f}, qcow2.Options{ReadOnly: true, Backing: qcow2.Raw{F: qcow2.OSFile{File: f}}})
	if err != nil {
		h.t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := q.Read(got, off); err != nil || string(got) != want {
		h.t.Errorf("%s has %q, want %q (%v)", path, got, want, err)
	}
}
