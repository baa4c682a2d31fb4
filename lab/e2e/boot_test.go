package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// Stock Debian kernels reach user space with one and with four vCPUs, run a command and switch off.
func TestLabBoot(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	for _, version := range labtest.Versions {
		for _, vcpus := range []int{1, 4} {
			if testing.Short() && (version == "6.1") == (vcpus == 1) {
				continue // one of each: 6.1 with four vCPUs, 6.12 with one
			}
			t.Run(fmt.Sprintf("%s with %d vCPUs", version, vcpus), func(t *testing.T) {
				h.t = t
				name := h.define(guest{name: fmt.Sprintf("boot%d", vcpus), kernel: labtest.Kernel(version), vcpus: vcpus,
					run: "uname -r; echo cpus=$(nproc)"})
				h.vctl("start", name)
				h.finish(name, 150*time.Second)
				out := h.output(name)
				if !strings.Contains(out, "\n"+version+".") || !strings.Contains(out, fmt.Sprintf("cpus=%d", vcpus)) {
					t.Errorf("console:\n%s", tail(out, 2000))
				}
				if got := h.vctl("domstate", "--reason", name); got != "shut off (shutdown)\n" {
					t.Errorf("state %q", got)
				}
				h.vctl("undefine", name)
				os.Remove(h.path(name + ".console"))
			})
		}
	}
	h.t = t
}

// What a guest writes to its disks is in the images after shutdown, whatever the cache mode. A write that the host has no space
// for is an error to the guest and an event, and leaves the other disks alone.
func TestLabDisks(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	h := startHost(t)
	var devices string
	modes := []string{"none", "writeback", "writethrough"}
	for i, mode := range modes {
		image := h.image(fmt.Sprintf("disk%d.img", i), 64)
		xml := disk(image, fmt.Sprintf("vd%c", 'a'+i), fmt.Sprintf("<serial>DISK%d</serial>", i))
		devices += strings.Replace(xml, "type='raw'", fmt.Sprintf("type='raw' cache='%s' discard='unmap'", mode), 1)
	}
	small := h.path("small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	h.sh("mount -t tmpfs -o size=1m small " + small + " && truncate -s 64M " + small + "/disk.img")
	t.Cleanup(func() { syscall.Unmount(small, syscall.MNT_DETACH) })
	devices += disk(small+"/disk.img", "vdd", "<serial>SMALL</serial>")
	run := "dd if=/dev/zero of=/dev/vdd bs=1M count=4 oflag=direct || echo no-room; for i in 0 1 2; do for d in vda vdb vdc; do grep -q DISK$i /sys/block/$d/serial && echo written-to-$i | dd of=/dev/$d bs=512 seek=2048 conv=sync,fsync; done; done"
	name := h.define(guest{name: "disks", kernel: labtest.Kernel("6.1"), devices: devices, run: run})
	events := watchEvents(t, h)
	h.vctl("start", name)
	h.finish(name, 150*time.Second)
	if out := h.output(name); !strings.Contains(out, "no-room") {
		t.Errorf("the guest wrote 4 MiB where there is room for one:\n%s", tail(out, 1000))
	}
	h.until(10*time.Second, "event io-error-reason", func() bool {
		return strings.Contains(events(), "disk.img (virtio-disk3) report due to enospc")
	})
	for i := range modes {
		data, err := os.ReadFile(filepath.Join(h.images(), fmt.Sprintf("disk%d.img", i)))
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("written-to-%d\n", i)
		if len(data) != 64<<20 || !bytes.HasPrefix(data[2048*512:], []byte(want)) {
			t.Errorf("disk %d has %q, want %q", i, data[2048*512:2048*512+20], want)
		}
	}
}
