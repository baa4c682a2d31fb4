package virtio

import (
	"fmt"
	"runtime/debug"

	"virtd/hypervisor/memory"
)

// DeviceID is a virtio device type (virtio 1.2, section 5).
type DeviceID uint16

// Device types.
const (
	IDNet     DeviceID = 1
	IDBlock   DeviceID = 2
	IDConsole DeviceID = 3
	IDEntropy DeviceID = 4
	IDBalloon DeviceID = 5
	IDInput   DeviceID = 18
)

// Device is one virtio device without its transport. The transport calls the methods from vCPU threads, one at a time
// for each device, in this order: any number of ReadConfig and WriteConfig at any time; Activate once the driver set
// DRIVER_OK; then Quiesce and Resume in pairs; Reset at any time after Activate, after which Activate may come again.
// A method returns soon: the work of queues runs in goroutines or threads that Activate starts and Reset ends.
type Device interface {
	// ID is the device type.
	ID() DeviceID
	// Features are the device-specific and ring features offered. The transport adds VIRTIO_F_VERSION_1 and refuses
	// a driver that does not take it.
	Features() uint64
	// QueueSizes has one entry for each virtqueue: the largest size offered, a power of two up to 32768.
	QueueSizes() []uint16
	// ReadConfig fills p from the device-specific configuration at offset; bytes beyond its end are zero.
	ReadConfig(offset int, p []byte)
	// WriteConfig stores p; what the driver may not write is ignored.
	WriteConfig(offset int, p []byte)
	// Activate starts the device. The device keeps env until Reset returns. An error sets DEVICE_NEEDS_RESET.
	Activate(env *Env) error
	// Reset stops all work. When it returns no thread of the device touches guest memory or queues, and no host
	// request that could write to guest memory is in flight.
	Reset()
	// Quiesce stops work as Reset does, but keeps the state, so that Resume goes on where it stopped; requests in
	// flight are completed first. Called with the vCPUs stopped.
	Quiesce()
	// Resume undoes Quiesce.
	Resume()
	// Save returns the device's own state, versioned, while quiesced or not activated. Restore sets it before
	// Activate.
	Save() ([]byte, error)
	Restore(state []byte) error
}

// PackedServer is a Device whose queues others may serve, for whom packed rings are not a matter of course.
type PackedServer interface {
	// ServesPacked reports whether who serves the queues takes packed rings; else PCIConfig.Packed must be false.
	ServesPacked() bool
}

// Env is what an active device works with.
type Env struct {
	Memory   *memory.Memory
	Features uint64   // accepted by the driver
	Queues   []*Queue // by virtqueue index; nil where the driver did not enable it
	// ConfigChanged raises a configuration change interrupt. Safe for concurrent use.
	ConfigChanged func()
	// Fail sets DEVICE_NEEDS_RESET and tells the driver: the device found something it cannot go on from, mostly a
	// malformed queue. It logs once and does not call back into the device. Safe for concurrent use.
	Fail func(err error)
}

// Feature bits of the rings and the transport (virtio 1.2, section 6).
const (
	FeatureIndirectDesc   uint64 = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx       uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureVersion1       uint64 = 1 << 32 // VIRTIO_F_VERSION_1
	FeatureAccessPlatform uint64 = 1 << 33 // VIRTIO_F_ACCESS_PLATFORM
	FeatureRingPacked     uint64 = 1 << 34 // VIRTIO_F_RING_PACKED
	FeatureRingReset      uint64 = 1 << 40 // VIRTIO_F_RING_RESET
)

// Guard is deferred by every goroutine of a device: a panic, which is a bug that a guest found, stops the device and not
// the machine.
func (e *Env) Guard() {
	if r := recover(); r != nil {
		e.Fail(fmt.Errorf("panic in the device: %v\n%s", r, debug.Stack()))
	}
}
