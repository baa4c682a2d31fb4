package e2e

import (
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// rootInitrd does what a distribution's initramfs does: it mounts what root= names and starts the init that is there.
const rootInitrd = `#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk ext4
root=$(sed 's/.*root=\([^ ]*\).*/\1/' /proc/cmdline)
until [ -b $root ]; do sleep 0.1; done
mount -t ext4 $root /mnt || echo "no root file system on $root"
umount /dev /sys /proc
exec switch_root /mnt /sbin/init
`

// rootInit is the init of that file system. The first time it writes a file and reboots, the second time it looks for it.
const rootInit = `#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox mount -o remount,rw /
echo "the root is $(busybox awk '$2 == "/" && $3 == "ext4" { print $1 }' /proc/mounts)"
if [ ! -e /written ]; then
  busybox dd if=/dev/urandom of=/file bs=64k count=128 2>/dev/null
  busybox md5sum </file >/written
  busybox mount -o remount,ro / && echo "the file is written"
  busybox reboot -f
fi
busybox echo 3 >/proc/sys/vm/drop_caches
[ "$(busybox md5sum </file)" = "$(busybox cat /written)" ] && echo "the file is as it was"
busybox mount -o remount,ro /
busybox poweroff -f
`

// checkVhostUserRoot boots a guest whose root file system is on a disk of qemu-storage-daemon, reboots it, and looks for what it
// has written, in the guest and in the image.
func checkVhostUserRoot(t *testing.T, h *host) {
	k := labtest.Kernel("6.12")
	image := h.image("root", 64)
	mount := h.path("root")
	init := h.file("root-init", rootInit)
	h.sh("mkfs.ext4 -q -F " + image + " && mkdir " + mount + " && mount -o loop " + image + " " + mount +
		" && cd " + mount + " && mkdir bin sbin proc dev sys && cp $(command -v busybox) bin/ && ln -s busybox bin/sh" +
		" && install -m 755 " + init + " sbin/init && cd / && umount " + mount)
	disk := startStorageOf(h, image, "root")
	name := h.define(guest{name: "rooted", kernel: k, devices: disk.xml("vda"), args: "root=/dev/vda",
		initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"init": rootInitrd})})
	h.vctl("start", name)
	h.expect(name, "the file is written", 3*time.Minute)
	h.expect(name, "the file is as it was", 3*time.Minute)
	if n := strings.Count(h.output(name), "the root is /dev/vda"); n != 2 {
		t.Errorf("the guest had its root on the disk %d times, want 2:\n%s", n, tail(h.output(name), 2000))
	}
	h.off(name, time.Minute)
	disk.kill()
	h.sh("mount -o loop,ro " + image + " " + mount)
	defer h.sh("umount " + mount)
	h.sh("[ \"$(md5sum <" + mount + "/file)\" = \"$(cat " + mount + "/written)\" ]")
	h.vctl("undefine", name)
}
