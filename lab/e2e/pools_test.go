package e2e

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// loopDevice returns a block device of size MiB, empty.
func (h *host) loopDevice(name string, size string) string {
	h.t.Helper()
	file := h.path(name)
	device := strings.TrimSpace(h.sh("modprobe loop; truncate -s " + size + " " + file + " && losetup -f --show " + file))
	h.t.Cleanup(func() { exec.Command("losetup", "-d", device).Run() })
	return device
}

// mounts returns the sources that are mounted at a directory.
func (h *host) mounts(dir string) (sources []string) {
	h.t.Helper()
	for _, line := range strings.Split(h.sh("cat /proc/self/mounts"), "\n") {
		if f := strings.Fields(line); len(f) > 3 && f[1] == dir {
			sources = append(sources, f[0])
		}
	}
	return sources
}

// killDaemon kills virtd as a crash does, and starts the next one.
func (h *host) killDaemon() {
	h.t.Helper()
	h.stopDaemon(syscall.SIGKILL)
	h.startDaemon()
}

// Pools on file systems of devices and images: built on what is empty only, mounted with care, found again after a crash, and
// nothing stays mounted.
func TestLabPoolsFS(t *testing.T) {
	labtest.Need(t, labtest.Virsh, labtest.Program("mkfs.ext4"), labtest.Program("mkfs.vfat"), labtest.Program("losetup"))
	h := startHost(t)
	device, dir := h.loopDevice("disk", "64M"), h.path("pool")
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	h.virsh("pool-define-as", "disk", "fs", "--source-dev", device, "--source-format", "ext4", "--target", dir)

	// what is not empty stays as it is
	h.sh("mkfs.vfat " + device)
	before := h.sh("sha256sum <" + device)
	h.refuses("carries vfat", "virsh", "pool-build", "disk", "--no-overwrite")
	h.refuses("carries vfat", "virsh", "pool-start", "disk", "--build", "--no-overwrite")
	h.sh("mkdir -p " + h.path("other") + " && mount " + device + " " + h.path("other"))
	h.refuses("is mounted at", "virsh", "pool-build", "disk", "--overwrite")
	h.sh("umount " + h.path("other"))
	if h.sh("sha256sum <"+device) != before {
		t.Error("a build that was refused changed the device")
	}

	h.virsh("pool-build", "disk", "--overwrite")
	h.virsh("pool-start", "disk")
	if got := h.mounts(dir); len(got) != 1 || got[0] != device {
		t.Errorf("mounted: %q", got)
	}
	if opts := h.sh("grep ' " + dir + " ' /proc/self/mounts"); !strings.Contains(opts, "nosuid,nodev,noexec") || !strings.Contains(opts, " ext4 ") {
		t.Errorf("mounted with %s", opts)
	}
	h.virsh("vol-create-as", "disk", "a.img", "8M")
	h.virsh("vol-upload", "a.img", h.file("data", "some data\n"), "--pool", "disk")
	h.refuses("Storage source conflict with pool: 'disk'", "virsh", "pool-create-as", "second", "fs", "--source-dev", device, "--target", h.path("second"))
	h.killDaemon()
	if got := h.mounts(dir); len(got) != 1 {
		t.Errorf("mounted after a crash: %q", got)
	}
	if out := h.virsh("vol-list", "disk"); !strings.Contains(out, "a.img") {
		t.Errorf("after a crash:\n%s", out)
	}
	holder, err := os.Open(dir + "/a.img")
	if err != nil {
		t.Fatal(err)
	}
	h.refuses("something on the host has files in it open", "virsh", "pool-destroy", "disk")
	holder.Close()
	h.virsh("pool-destroy", "disk")
	if got := h.mounts(dir); len(got) != 0 {
		t.Errorf("mounted after destroy: %q", got)
	}
	h.refuses("carries ext4", "virsh", "pool-build", "disk", "--no-overwrite")
	h.virsh("pool-start", "disk")
	if got := h.sh("head -c 9 " + dir + "/a.img"); got != "some data" {
		t.Errorf("the volume holds %q", got)
	}
	h.virsh("pool-destroy", "disk")
	h.virsh("pool-delete", "disk")
	h.virsh("pool-undefine", "disk")

	h.imagePool()
}

// imagePool has a pool on an image file, which gets a loop device of its own, unmounted by somebody else while virtd is away.
func (h *host) imagePool() {
	t := h.t
	t.Helper()
	image, dir := h.path("store.img"), h.path("store")
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	h.sh("truncate -s 64M " + image)
	h.virsh("pool-define-as", "store", "fs", "--source-dev", image, "--source-format", "vfat", "--target", dir)
	h.virsh("pool-start", "store", "--build", "--no-overwrite")
	if got := h.mounts(dir); len(got) != 1 || !strings.HasPrefix(got[0], "/dev/loop") {
		t.Errorf("mounted: %q", got)
	}
	h.virsh("vol-create-as", "store", "b.img", "1M", "--allocation", "0")
	h.killDaemon()
	if out := h.virsh("pool-list"); !strings.Contains(out, "store") {
		t.Errorf("after a crash:\n%s", out)
	}
	h.stopDaemon(syscall.SIGTERM)
	h.sh("umount " + dir)
	h.startDaemon()
	if out := h.virsh("pool-list", "--inactive"); !strings.Contains(out, "store") {
		t.Errorf("unmounted by somebody else:\n%s", out)
	}
	h.virsh("pool-start", "store")
	h.virsh("vol-info", "b.img", "--pool", "store")
	h.virsh("pool-destroy", "store")
	if out := h.sh("losetup -a"); strings.Contains(out, "store.img") || len(h.mounts(dir)) != 0 {
		t.Errorf("something stays: %s", out)
	}
}

// A volume group of two devices with volumes on which a Linux guest reads and writes, over a crash of virtd.
func TestLabPoolsLogical(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh, labtest.Program("vgcreate"), labtest.Program("losetup"))
	h := startHost(t)
	h.sh("modprobe -a dm-mod dm-snapshot dm-zero")
	one, two := h.loopDevice("one", "80M"), h.loopDevice("two", "80M")
	t.Cleanup(func() { exec.Command("env", "DM_DISABLE_UDEV=1", "vgremove", "--force", "--yes", "labvg").Run() })
	pool := h.file("vg.xml", "<pool type='logical'><name>vg</name><source><device path='"+one+"'/><device path='"+two+"'/><name>labvg</name></source></pool>")
	h.virsh("pool-define", pool)
	h.sh("echo precious | dd of=" + two + " bs=512 seek=100 conv=notrunc status=none")
	h.refuses("carries data of an unknown kind at byte 51200", "virsh", "pool-build", "vg")
	h.sh("dd if=/dev/zero of=" + two + " bs=512 seek=100 count=1 conv=notrunc status=none")
	h.virsh("pool-build", "vg")
	h.virsh("pool-start", "vg")
	h.virsh("vol-create-as", "vg", "root", "90M") // on both devices
	h.virsh("vol-create-as", "vg", "data", "8M")
	h.virsh("vol-create-as", "vg", "sparse", "1G", "--allocation", "8M")
	xml := h.virsh("vol-dumpxml", "root", "--pool", "vg")
	if !strings.Contains(xml, "<device path='"+one+"'>") || !strings.Contains(xml, "<device path='"+two+"'>") || !strings.Contains(xml, "<capacity unit='bytes'>96468992</capacity>") {
		t.Errorf("volume:\n%s", xml)
	}
	key := strings.TrimSpace(h.virsh("vol-key", "root", "--pool", "vg"))
	if got := strings.TrimSpace(h.virsh("vol-name", key)); got != "root" || len(key) != 38 {
		t.Errorf("key %q is of %q", key, got)
	}
	h.virsh("vol-upload", "root", h.file("hello", "from-the-host"), "--pool", "vg", "--offset", "1048576")
	h.guestOnVolumes()

	if got := h.sh("dd if=/dev/labvg/root bs=512 skip=4096 count=1 status=none | head -c 14"); got != "from-the-guest" {
		t.Errorf("the guest's write is %q", got)
	}
	if got := h.sh("dd if=/dev/labvg/sparse bs=512 skip=4096 count=1 status=none | head -c 14"); got != "from-the-guest" {
		t.Errorf("the guest's write to the sparse volume is %q", got)
	}
	if !testing.Short() {
		h.moreOfVolumes()
	}
	h.endOfGroup()
}

// moreOfVolumes does what needs no guest.
func (h *host) moreOfVolumes() {
	h.t.Helper()
	if out := h.virsh("find-storage-pool-sources", "logical"); !strings.Contains(out, "<name>labvg</name>") || strings.Count(out, "<device") != 2 {
		h.t.Errorf("sources:\n%s", out)
	}
	h.refuses("insufficient free space", "virsh", "vol-clone", "root", "copy", "--pool", "vg")
	h.virsh("vol-clone", "data", "copy", "--pool", "vg")
	h.virsh("vol-resize", "copy", "12M", "--pool", "vg")
	h.virsh("vol-download", "copy", h.path("copy.raw"), "--pool", "vg")
	if st, err := os.Stat(h.path("copy.raw")); err != nil || st.Size() != 12<<20 {
		h.t.Errorf("the download is %v (%v)", st, err)
	}
	h.virsh("vol-create-as", "vg", "before", "4M", "--backing-vol", "data")
	h.refuses("has a snapshot, 'before'", "virsh", "vol-delete", "data", "--pool", "vg")
	h.virsh("vol-wipe", "copy", "--pool", "vg")
	h.virsh("pool-destroy", "vg")
	if out := h.sh("lvs --noheadings -o lv_attr labvg"); strings.Contains(out, "-a-") {
		h.t.Errorf("volumes are active:\n%s", out)
	}
	h.sh("DM_DISABLE_UDEV=1 vgchange --activate y labvg")
	h.refuses("is in use by dm-", "virsh", "pool-build", "vg", "--overwrite")
	h.refuses("volumes: delete them first", "virsh", "pool-delete", "vg")
	h.virsh("pool-start", "vg")
	h.virsh("vol-delete", "before", "--pool", "vg")
	h.virsh("vol-delete", "copy", "--pool", "vg")
}

// endOfGroup deletes the volumes, stops the pool, and deletes the group.
func (h *host) endOfGroup() {
	h.t.Helper()
	for _, name := range []string{"sparse", "data", "root"} {
		h.virsh("vol-delete", name, "--pool", "vg")
	}
	h.virsh("pool-destroy", "vg")
	h.virsh("pool-delete", "vg")
	if out := h.sh("pvs --noheadings; vgs --noheadings; ls /dev/mapper"); strings.Contains(out, "labvg") {
		h.t.Errorf("something stays of the group:\n%s", out)
	}
	h.refuses("cannot find logical volume group name 'labvg'", "virsh", "pool-start", "vg")
	h.virsh("pool-undefine", "vg")
}

// guestOnVolumes runs a guest on the volumes root and sparse, and kills virtd meanwhile.
func (h *host) guestOnVolumes() {
	h.t.Helper()
	devices := ""
	for i, volume := range []string{"root", "sparse"} {
		devices += "<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none'/><source pool='vg' volume='" + volume + "'/><target dev='vd" +
			string(rune('a'+i)) + "' bus='virtio'/></disk>"
	}
	run := "dd if=/dev/vda bs=512 skip=2048 count=1 | head -c 13; echo; for d in vda vdb; do echo from-the-guest | dd of=/dev/$d bs=512 seek=4096 conv=sync,fsync; done; " +
		"echo WRITTEN; while [ ! -e /sys/block/vdc ]; do sleep 1; done; cat /sys/block/vdc/size"
	name := h.define(guest{name: "onlvm", kernel: labtest.Kernel("6.1"), devices: devices, run: run})
	h.vctl("start", name)
	h.refuses("domain 'onlvm' has volume", "virsh", "pool-destroy", "vg")
	h.refuses("in use by domain 'onlvm'", "virsh", "vol-delete", "root", "--pool", "vg")
	h.expect(name, "WRITTEN", 200*time.Second)
	h.killDaemon()
	h.refuses("in use by domain 'onlvm'", "virsh", "vol-delete", "root", "--pool", "vg")
	if xml := h.virsh("dumpxml", name); !strings.Contains(xml, "<source pool='vg' volume='root'") {
		h.t.Errorf("dumpxml:\n%s", xml)
	}
	h.virsh("domblkinfo", name, "/dev/labvg/root")
	h.virsh("attach-device", name, h.file("data.xml", "<disk type='volume'><driver name='qemu' type='raw'/><source pool='vg' volume='data'/><target dev='vdc'/></disk>"))
	h.finish(name, 200*time.Second)
	if out := h.output(name); !strings.Contains(out, "from-the-host") || !strings.Contains(out, "16384") {
		h.t.Errorf("the guest says:\n%s", tail(out, 2000))
	}
}
