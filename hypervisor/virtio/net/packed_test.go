package net

import (
	"testing"

	"virtd/hypervisor/virtio/virtiotest"
)

// TestPackedRings: what the device does does not depend on what kind its queues are.
func TestPackedRings(t *testing.T) {
	virtiotest.Packed(t, map[string]func(*testing.T){
		"Transmit":                    TestTransmit,
		"Receive":                     TestReceive,
		"ReceiveKeepsGoing":           TestReceiveKeepsGoing,
		"Starved":                     TestStarved,
		"Link":                        TestLink,
		"Control":                     TestControl,
		"ControlQueueWithoutMQ":       TestControlQueueWithoutMQ,
		"QueuePairsAreIndependent":    TestQueuePairsAreIndependent,
		"BrokenPackets":               TestBrokenPackets,
		"PacketLongerThanAllBuffers":  TestPacketLongerThanAllBuffers,
		"SaveRestore":                 TestSaveRestore,
		"QuiesceResume":               TestQuiesceResume,
		"ResetUnderLoad":              TestResetUnderLoad,
		"DirtyLogSeesReceivedPackets": TestDirtyLogSeesReceivedPackets,
		"WithoutEventIndex":           TestWithoutEventIndex,
		"HashReport":                  TestHashReport,
		"HashReportTransmit":          TestHashReportTransmit,
		"HashReportStream":            TestHashReportStream,
		"PacketsDoNotAllocate":        TestPacketsDoNotAllocate,
		"StreamTransmit":              TestStreamTransmit,
		"StreamReceive":               TestStreamReceive,
		"StreamStarved":               TestStreamStarved,
		"StreamBackpressure":          TestStreamBackpressure,
		"StreamDoesNotAllocate":       TestStreamDoesNotAllocate,
	})
}
