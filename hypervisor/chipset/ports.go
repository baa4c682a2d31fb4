package chipset

import "sync/atomic"

// DelayPort is the port that programs write to pass a microsecond (POST code port); it keeps the last byte, which shows
// how far a guest came.
const DelayPort = 0x80

// PostCode is port 0x80.
type PostCode struct{ last atomic.Uint32 }

// Last returns the last byte written.
func (p *PostCode) Last() uint8 { return uint8(p.last.Load()) }

// Read implements bus.Device.
func (p *PostCode) Read(_ uint64, b []byte) {
	clear(b)
	b[0] = p.Last()
}

// Write implements bus.Device.
func (p *PostCode) Write(_ uint64, b []byte) { p.last.Store(uint32(b[0])) }

// SpeakerPort is NMI status and speaker control (ICH9 13.7.1, NMI_SC). KVM's interval timer answers it when there is
// one; Speaker does for a machine without.
const SpeakerPort = 0x61

// Speaker is port 0x61 without a timer behind it: bits 0 and 1 are kept, the refresh bit toggles at each read.
type Speaker struct{ value atomic.Uint32 }

// Read implements bus.Device.
func (s *Speaker) Read(_ uint64, b []byte) {
	clear(b)
	const refresh = 0x10
	for {
		v := s.value.Load()
		if s.value.CompareAndSwap(v, v^refresh) {
			b[0] = uint8(v ^ refresh)
			return
		}
	}
}

// Write implements bus.Device.
func (s *Speaker) Write(_ uint64, b []byte) { s.value.Store(uint32(b[0]) & 3) }

// APMPort and APMStatus are the SMI command ports (ICH9 13.7, APM_CNT and APM_STS). There is no SMM: they keep what is
// written, and ACPI is always enabled.
const (
	APMPort  = 0xb2
	APMPorts = 2
)

// APM is the pair of ports.
type APM struct{ value [APMPorts]atomic.Uint32 }

// Read implements bus.Device.
func (a *APM) Read(off uint64, b []byte) {
	clear(b)
	for i := range b {
		if off+uint64(i) < APMPorts {
			b[i] = uint8(a.value[off+uint64(i)].Load())
		}
	}
}

// Write implements bus.Device.
func (a *APM) Write(off uint64, b []byte) {
	for i := range b {
		if off+uint64(i) < APMPorts {
			a.value[off+uint64(i)].Store(uint32(b[i]))
		}
	}
}

// PVPanicPort is where the pvpanic device is.
const PVPanicPort = 0x505

// Events of pvpanic (QEMU docs/specs/pvpanic).
const (
	PVPanicked    = 1 << 0
	PVCrashLoaded = 1 << 1
)

// PVPanic is QEMU's pvpanic ISA device: a guest writes what happened to it.
type PVPanic struct{ event func(bits uint8) }

// NewPVPanic returns the device. event gets the supported bits that the guest wrote.
func NewPVPanic(event func(bits uint8)) *PVPanic { return &PVPanic{event} }

// Read implements bus.Device: the events that are understood.
func (*PVPanic) Read(_ uint64, b []byte) {
	clear(b)
	b[0] = PVPanicked | PVCrashLoaded
}

// Write implements bus.Device.
func (p *PVPanic) Write(_ uint64, b []byte) {
	if bits := b[0] & (PVPanicked | PVCrashLoaded); bits != 0 {
		p.event(bits)
	}
}
