package virtiotest

import (
	"encoding/binary"
	"testing"

	"virtd/hypervisor/bus"
	"virtd/hypervisor/interrupt"
	"virtd/hypervisor/pci"
	"virtd/hypervisor/virtio"
)

// Where Attach puts the BARs.
const (
	VirtioBAR = 0x1_0000_0000 // BAR 4
	MSIXBAR   = 0xe000_0000   // BAR 1
)

// Offsets in the virtio BAR, as the capabilities announce them.
const (
	CommonAt = 0x0000
	ISRAt    = 0x1000
	ConfigAt = 0x2000
	NotifyAt = 0x3000
)

// Fields of the common configuration (virtio 1.2, 4.1.4.3).
const (
	DeviceFeatureSelect = 0x00
	DeviceFeature       = 0x04
	DriverFeatureSelect = 0x08
	DriverFeature       = 0x0c
	ConfigVector        = 0x10
	NumQueues           = 0x12
	Status              = 0x14
	Generation          = 0x15
	QueueSelect         = 0x16
	QueueSize           = 0x18
	QueueVector         = 0x1a
	QueueEnable         = 0x1c
	QueueNotifyOff      = 0x1e
	QueueDesc           = 0x20
	QueueDriver         = 0x28
	QueueDevice         = 0x30
)

// Guest is a driver that reaches a device through configuration space and BARs, as a vCPU would.
type Guest struct {
	Function   *pci.Function
	Interrupts *Interrupts
	Bus        bus.Space
	Stride     uint64 // bytes from doorbell to doorbell
}

// wiring gives all pins the controller's line.
type wiring struct{ c *Interrupts }

func (w wiring) Line(slot, pin uint8) interrupt.Line { return w.c.Line(0) }

// Watch tells nobody: virtio devices drive their lines themselves.
func (w wiring) Watch(slot, pin uint8, tell func(int)) func() { return func() {} }

// Attach puts the transport's function on a bus of its own with BARs assigned and memory and bus mastering on.
func Attach(t testing.TB, c *Interrupts, p *virtio.PCI) *Guest {
	t.Helper()
	g := &Guest{Function: p.Function(), Interrupts: c, Stride: 4}
	root := pci.NewRoot(pci.RootConfig{Memory: &g.Bus, Ports: &bus.Space{}, Interrupts: wiring{c}})
	if err := root.Add(pci.Address{Slot: 1}, g.Function); err != nil {
		t.Fatal(err)
	}
	g.ConfigWrite(0x14, 4, MSIXBAR)
	g.ConfigWrite(0x20, 4, VirtioBAR&0xffffffff)
	g.ConfigWrite(0x24, 4, VirtioBAR>>32)
	g.ConfigWrite(0x04, 2, 0x6) // COMMAND: memory, bus master
	return g
}

// EnableMSIX turns MSI-X on with n unmasked vectors.
func (g *Guest) EnableMSIX(n int) {
	for i := range n {
		g.Bus.Write(MSIXBAR+16*uint64(i), le(0xfee00000, 8))
		g.Bus.Write(MSIXBAR+16*uint64(i)+8, le(uint64(0x40+i), 4))
		g.Bus.Write(MSIXBAR+16*uint64(i)+12, le(0, 4))
	}
	at := g.FindCapability(0x11, -1)
	g.ConfigWrite(at+2, 2, 0x8000)
}

// FindCapability returns the offset of the first capability with the identifier, and for virtio structures (identifier
// 9) of that type; 0 when there is none.
func (g *Guest) FindCapability(id byte, virtioType int) int {
	for at := int(g.ConfigRead(0x34, 1)); at != 0; at = int(g.ConfigRead(at+1, 1)) {
		if byte(g.ConfigRead(at, 1)) == id && (virtioType < 0 || int(g.ConfigRead(at+3, 1)) == virtioType) {
			return at
		}
	}
	return 0
}

func le(v uint64, n int) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:n] }

// ConfigRead reads n bytes of configuration space.
func (g *Guest) ConfigRead(offset, n int) uint64 {
	var b [8]byte
	g.Function.ConfigRead(offset, b[:n])
	return binary.LittleEndian.Uint64(b[:])
}

// ConfigWrite writes n bytes of configuration space.
func (g *Guest) ConfigWrite(offset, n int, v uint64) { g.Function.ConfigWrite(offset, le(v, n)) }

// Read reads n bytes at offset of the virtio BAR.
func (g *Guest) Read(offset uint64, n int) uint64 {
	var b [8]byte
	g.Bus.Read(VirtioBAR+offset, b[:n])
	return binary.LittleEndian.Uint64(b[:])
}

// Write writes n bytes at offset of the virtio BAR. A doorbell that the kernel would take is signalled instead.
func (g *Guest) Write(offset uint64, n int, v uint64) {
	if offset >= NotifyAt && g.Interrupts.ring(VirtioBAR+offset) {
		return
	}
	g.Bus.Write(VirtioBAR+offset, le(v, n))
}

// Features returns what the device offers.
func (g *Guest) Features() uint64 {
	g.Write(DeviceFeatureSelect, 4, 0)
	lo := g.Read(DeviceFeature, 4)
	g.Write(DeviceFeatureSelect, 4, 1)
	return lo | g.Read(DeviceFeature, 4)<<32
}

// Negotiate resets the device and goes to FEATURES_OK with features; it reports whether the device agreed.
func (g *Guest) Negotiate(features uint64) bool {
	g.Write(Status, 1, 0)
	g.Write(Status, 1, 1)
	g.Write(Status, 1, 3)
	g.Write(DriverFeatureSelect, 4, 0)
	g.Write(DriverFeature, 4, features&0xffffffff)
	g.Write(DriverFeatureSelect, 4, 1)
	g.Write(DriverFeature, 4, features>>32)
	g.Write(Status, 1, 11)
	return g.Read(Status, 1)&8 != 0
}

// SetQueue configures and enables queue i as r with vector i+1.
func (g *Guest) SetQueue(i int, r *Ring) {
	g.Write(QueueSelect, 2, uint64(i))
	g.Write(QueueSize, 2, uint64(r.Size))
	g.Write(QueueVector, 2, uint64(i+1))
	g.Write(QueueDesc, 8, r.Desc)
	g.Write(QueueDriver, 4, r.Avail&0xffffffff)
	g.Write(QueueDriver+4, 4, r.Avail>>32)
	g.Write(QueueDevice, 8, r.Used)
	g.Write(QueueEnable, 2, 1)
}

// Start takes the device from reset to DRIVER_OK.
func (g *Guest) Start(t testing.TB, features uint64, rings ...*Ring) {
	t.Helper()
	if !g.Negotiate(features | virtio.FeatureVersion1) {
		t.Fatalf("device refused features %#x", features)
	}
	g.Write(ConfigVector, 2, 0)
	for i, r := range rings {
		if r != nil {
			r.Index, r.Features = i, features
			g.SetQueue(i, r)
		}
	}
	g.Write(Status, 1, 15)
}

// Vector returns the interrupt of vector i.
func (g *Guest) Vector(p *virtio.PCI, i int) *MSI { return p.MSIX().Vector(i).(*MSI) }

// Kick rings the doorbell of queue i.
func (g *Guest) Kick(i int) { g.Write(NotifyAt+g.Stride*uint64(i), 2, uint64(i)) }
