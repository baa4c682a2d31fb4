package blk

import (
	"testing"

	"virtd/hypervisor/virtio/virtiotest"
)

// TestPackedRings: what the device does does not depend on what kind its queues are.
func TestPackedRings(t *testing.T) {
	virtiotest.Packed(t, map[string]func(*testing.T){
		"ReadWriteFlush":   TestReadWriteFlush,
		"HeaderSplit":      TestHeaderSplit,
		"LogicalBlock4096": TestLogicalBlock4096,
		"Durable":          TestDurable,
		"Resize":           TestResize,
		"Multiqueue":       TestMultiqueue,
		"SaveRestore":      TestSaveRestore,
		"QuiesceResume":    TestQuiesceResume,
		"HostErrors":       TestHostErrors,
	})
}
