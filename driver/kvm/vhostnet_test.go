package kvm

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor"
	"virtd/hypervisor/virtio"
	"virtd/network/bridge"
	"virtd/network/bridge/bridgetest"
	"virtd/virterr"
)

func vhostResource(packed bool) Resource {
	return Resource{Kind: ResourceVhost, Alias: "net0", Path: bridge.VhostNetDevice, Packed: packed, Files: []hypervisor.FileName{"a", "b"}}
}

func TestVhostNetServesPacked(t *testing.T) {
	r := vhostResource(true)
	if err := servesPacked(virtio.FeatureVersion1|virtio.FeatureRingPacked, r); err != nil {
		t.Error(err)
	}
	err := servesPacked(^virtio.FeatureRingPacked, r)
	if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "interface net0, /dev/vhost-net; use <driver name='qemu' packed='on'/>") {
		t.Errorf("got %v", err)
	}
}

// TestOpenVhostNetAsks: vhost-net is asked what it serves when packed virtqueues are wanted, and is closed when it does not tell.
// The descriptors of the fake are no vhost-net.
func TestOpenVhostNetAsks(t *testing.T) {
	d := &Driver{cfg: Config{Links: &bridgetest.Fake{}}}
	files, err := d.openVhostNet(vhostResource(false))
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		f.Close()
	}
	before := descriptors(t)
	if files, err = d.openVhostNet(vhostResource(true)); !errors.Is(err, unix.ENOTTY) || files != nil {
		t.Errorf("%d files, %v", len(files), err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
