package rng

import (
	"testing"

	"virtd/hypervisor/virtio/virtiotest"
)

// TestPackedRings: what the device does does not depend on what kind its queues are.
func TestPackedRings(t *testing.T) {
	virtiotest.Packed(t, map[string]func(*testing.T){
		"KernelSource": TestKernelSource,
		"SaveRestore":  TestSaveRestore,
	})
}
