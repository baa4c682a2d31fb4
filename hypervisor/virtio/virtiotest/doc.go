// Package virtiotest is a driver for tests of virtio devices: a virtqueue, split or packed, seen from the guest's side, and an Env
// that records what the device does to its transport. Fuzzers use the same rings with random bytes in them.
//
// It leaves out the transport: a Ring hands its device-side Queue to the device directly. Start reading at Ring.
package virtiotest
