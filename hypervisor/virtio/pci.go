package virtio

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/bus"
	"virtd/hypervisor/interrupt"
	"virtd/hypervisor/memory"
	"virtd/hypervisor/pci"
)

// Identity of virtio functions (virtio 1.2, 4.1.2).
const (
	pciVendor     = 0x1af4
	pciDeviceBase = 0x1040 // plus the device type
	pciRevision   = 1
	pciSubVendor  = 0x1af4
	pciSubDevice  = 0x1100
)

// Layout of the BARs. The numbers are ours to choose (4.1.4); these leave each structure a page of its own.
const (
	barMSIX   = 1
	barVirtio = 4

	msixBARSize = 0x1000
	msixTable   = 0x000
	msixPBA     = 0x800
	maxVectors  = msixPBA / 16

	commonAt, commonSize = 0x0000, 0x40
	isrAt, isrSize       = 0x1000, 0x1
	deviceAt, deviceSize = 0x2000, 0x1000
	notifyAt             = 0x3000 // to the end of the BAR

	doorbellStride = 4      // notify_off_multiplier (4.1.4.4)
	doorbellPage   = 0x1000 // the same with PCIConfig.PagePerVQ
)

// Types of virtio structure capabilities (4.1.4).
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capPCI    = 5
)

// PCIConfig is what the PCI transport needs for one device.
type PCIConfig struct {
	Name       string // for messages: the device's alias
	Device     Device
	Memory     *memory.Memory
	Interrupts interrupt.Controller
	// Doorbells turns kicks into eventfds inside the kernel. nil, or a Bind that fails, leaves kicks to the vCPU thread.
	Doorbells interrupt.Doorbells
	// Express adds the PCI Express capability of that type, for machines with PCI Express.
	Express *pci.ExpressType
	// AccessPlatform offers VIRTIO_F_ACCESS_PLATFORM and refuses a driver without it. There is no IOMMU in front of the
	// device, so the addresses that the driver gives are the guest's own all the same.
	AccessPlatform bool
	// Packed offers packed rings, VIRTIO_F_RING_PACKED. Whoever serves the device's queues must take them: see PackedServer.
	Packed bool
	// PagePerVQ gives each doorbell a page of its own, so that a driver can map one and not the others.
	PagePerVQ bool
	// Logf reports what the guest or the device did wrong, once for each life of the driver. nil reports nothing.
	Logf func(format string, args ...any)
}

// PCI is the PCI transport of one device (virtio 1.2, 4.1, modern only). The guest reaches it through Function; the
// machine calls Quiesce, Resume, Save, Restore and Close. All methods are safe for concurrent use.
type PCI struct {
	cfg      PCIConfig
	dev      Device
	fn       *pci.Function
	msix     *pci.MSIX
	features uint64 // offered
	must     uint64 // what a driver has to take
	stride   int    // bytes from doorbell to doorbell
	barSize  uint64 // of barVirtio
	kicks    []int  // eventfd of each queue's doorbell
	intxCall int    // eventfd that kernel back ends signal when the driver uses no MSI-X

	// What device threads touch without mu.
	config     vector // configuration change interrupt
	generation atomic.Uint32
	needsReset atomic.Bool
	driverOK   atomic.Bool
	isr        isr

	mu        sync.Mutex // registers and the device's life; BAR accesses, BAR mapping, reset
	status    uint8      // without DEVICE_NEEDS_RESET
	accepted  uint64     // driver features
	devSelect uint32
	drvSelect uint32
	queueSel  uint16
	queues    []queueRegs
	active    []*Queue // of the running device; nil when it does not run
	running   bool     // Activate succeeded and Reset did not come
	quiesced  bool
	deferred  bool     // restored with DRIVER_OK: Resume activates
	bases     []uint32 // with deferred: where the queues go on
	envLife   *life
	bar       uint64 // where barVirtio is mapped, 0 when not
	bound     []uint64
	noBind    bool // a Bind failed and was reported
	pump      *Kicks
	pumpDone  chan struct{}
}

// queueRegs are the registers of one queue (4.1.4.3). vector is read by device threads.
type queueRegs struct {
	max, size          uint16
	enabled            bool
	desc, driver, used uint64
	vector             vector
	live               atomic.Bool // enabled and DRIVER_OK: a kick means something
}

// NewPCI builds the function of a device. The caller adds Function to a pci.Root.
func NewPCI(cfg PCIConfig) (*PCI, error) {
	sizes := cfg.Device.QueueSizes()
	if len(sizes)+1 > maxVectors {
		return nil, fmt.Errorf("%s: %d virtqueues are more than the transport has vectors for", cfg.Name, len(sizes))
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	t := &PCI{cfg: cfg, dev: cfg.Device, must: FeatureVersion1, stride: doorbellStride, intxCall: -1, queues: make([]queueRegs, len(sizes))}
	if cfg.AccessPlatform {
		t.must |= FeatureAccessPlatform
	}
	t.features = cfg.Device.Features() | t.must
	if cfg.Packed {
		t.features |= FeatureRingPacked
	}
	if cfg.PagePerVQ {
		t.stride = doorbellPage
	}
	doorbells := max(len(sizes)*t.stride, doorbellPage)
	t.barSize = 1 << bits.Len64(uint64(notifyAt+doorbells-1))
	t.config.t, t.isr.t = t, t
	for i := range t.queues {
		t.queues[i].max = sizes[i]
		t.queues[i].vector.t = t
	}
	t.clearRegisters()
	for i := range len(sizes) + 1 {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Close()
			return nil, fmt.Errorf("%s: create the eventfd of queue %d: %w", cfg.Name, i, err)
		}
		if i < len(sizes) {
			t.kicks = append(t.kicks, fd)
		} else {
			t.intxCall = fd
		}
	}
	if err := t.build(len(sizes)); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// class is the class code that QEMU's functions of the type have; the specification leaves it open (4.1.2.1).
func class(id DeviceID) uint32 {
	switch id {
	case IDNet:
		return 0x020000 // Ethernet controller
	case IDBlock:
		return 0x010000 // SCSI storage controller
	case IDConsole:
		return 0x078000 // other communication controller
	case IDInput:
		return 0x090000 // keyboard controller
	}
	return 0x00ff00 // does not fit a class
}

func (t *PCI) build(queues int) error {
	id := t.dev.ID()
	t.fn = pci.NewFunction(pci.Identity{
		Vendor: pciVendor, Device: pciDeviceBase + uint16(id), Revision: pciRevision, Class: class(id),
		SubVendor: pciSubVendor, SubDevice: pciSubDevice,
	})
	t.fn.UseINTx(1)
	t.fn.AddBAR(pci.BAR{Index: barMSIX, Kind: pci.Memory32, Size: msixBARSize})
	t.fn.AddBAR(pci.BAR{
		Index: barVirtio, Kind: pci.Memory64, Prefetchable: true, Size: t.barSize, Device: (*virtioBAR)(t),
		Mapped: t.barMapped, Unmapped: t.barUnmapped,
	})
	var err error
	if t.msix, err = t.fn.AddMSIX(queues+1, t.cfg.Interrupts, barMSIX, msixTable, msixPBA); err != nil {
		return fmt.Errorf("%s: %w", t.cfg.Name, err)
	}
	t.addCapability(capCommon, commonAt, commonSize)
	t.addCapability(capNotify, notifyAt, uint32(max(queues*t.stride, doorbellPage)), uint32(t.stride))
	t.addCapability(capISR, isrAt, isrSize)
	t.addCapability(capDevice, deviceAt, deviceSize)
	t.addWindow()
	if t.cfg.Express != nil {
		t.fn.AddPowerManagement()
		t.fn.AddExpress(*t.cfg.Express, 0)
	}
	t.fn.OnReset(t.Reset)
	return nil
}

// addCapability announces where a structure is (struct virtio_pci_cap, 4.1.4).
func (t *PCI) addCapability(kind byte, offset, size uint32, extra ...uint32) int {
	body := []byte{kind, barVirtio, 0, 0, 0}
	body = binary.LittleEndian.AppendUint32(body, offset)
	body = binary.LittleEndian.AppendUint32(body, size)
	for _, v := range extra {
		body = binary.LittleEndian.AppendUint32(body, v)
	}
	return t.fn.AddVendorCapability(body, nil)
}

// Function is the device on the PCI side.
func (t *PCI) Function() *pci.Function { return t.fn }

// MSIX is the function's MSI-X capability: vector 0 is offered for configuration changes and one for each queue.
func (t *PCI) MSIX() *pci.MSIX { return t.msix }

// Device is the device behind the transport.
func (t *PCI) Device() Device { return t.dev }

// Close stops the device and releases eventfds and interrupts. The function must have been removed from its root, or the
// machine be gone.
func (t *PCI) Close() error {
	t.Reset()
	for _, fd := range append(t.kicks, t.intxCall) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	t.kicks, t.intxCall = nil, -1
	if t.msix != nil {
		return t.msix.Close()
	}
	return nil
}

// virtioBAR is the BAR with the virtio structures.
type virtioBAR PCI

var _ bus.Device = (*virtioBAR)(nil)

// Read implements bus.Device. What belongs to no structure reads as zero.
func (b *virtioBAR) Read(offset uint64, p []byte) {
	t := (*PCI)(b)
	clear(p)
	switch {
	case offset < commonAt+commonSize:
		t.mu.Lock()
		defer t.mu.Unlock()
		var image [commonSize]byte
		t.readCommon(&image)
		copy(p, image[offset-commonAt:])
	case offset == isrAt && len(p) > 0:
		p[0] = t.isr.take()
	case offset >= deviceAt && offset < deviceAt+deviceSize:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.dev.ReadConfig(int(offset-deviceAt), p)
	}
}

// Write implements bus.Device. What belongs to no structure is ignored.
func (b *virtioBAR) Write(offset uint64, p []byte) {
	t := (*PCI)(b)
	switch {
	case offset < commonAt+commonSize:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.writeCommon(int(offset-commonAt), p)
	case offset >= deviceAt && offset < deviceAt+deviceSize:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.dev.WriteConfig(int(offset-deviceAt), p)
	case offset >= notifyAt && offset < t.barSize:
		t.kick(int(offset-notifyAt) / t.stride)
	}
}
