package acpi

import "encoding/binary"

// MADT structures (5.2.12).
const (
	madtRevision        = 3 // before the online-capable flag: a disabled processor may come later
	madtRevisionCapable = 5 // with it (ACPI 6.3)

	madtPCAT = 1 << 0 // an i8259 pair is there too

	madtLocalAPIC   = 0
	madtIOAPIC      = 1
	madtOverride    = 2
	madtLocalNMI    = 4
	madtLocalX2     = 9
	madtLocalX2NMI  = 10
	madtEnabled     = 1 << 0
	madtCapable     = 1 << 1   // not there, and may come
	madtLevelHigh   = 3<<2 | 1 // trigger and polarity of an override
	madtAllUIDs     = 0xff
	madtLargestXAPC = 254
)

// madt makes the Multiple APIC Description Table.
func (b *builder) madt(c *Config) int {
	revision, absent := byte(madtRevision), uint32(0)
	if c.CPUHotplug {
		revision, absent = madtRevisionCapable, madtCapable
	}
	at := b.begin("APIC", revision)
	b.dword(LAPICBase)
	b.dword(madtPCAT)
	x2 := false
	for uid, cpu := range c.CPUs {
		flags := absent
		if cpu.Online {
			flags = madtEnabled
		}
		x2 = x2 || cpu.APICID > madtLargestXAPC
		b.bytes(localAPIC(uid, cpu.APICID, flags)...)
	}
	b.bytes(madtIOAPIC, 12, 0, 0)
	b.dword(IOAPICBase)
	b.dword(0) // first global system interrupt
	b.override(0, TimerGSI, 0)
	b.override(SCI, SCI, madtLevelHigh)
	b.bytes(madtLocalNMI, 6, madtAllUIDs, 0, 0, 1) // LINT1 of all
	if x2 {
		b.bytes(madtLocalX2NMI, 12, 0, 0)
		b.dword(0xffffffff)
		b.bytes(1, 0, 0, 0)
	}
	b.end(at)
	return at
}

func (b *builder) override(isa byte, gsi uint32, flags uint16) {
	b.bytes(madtOverride, 10, 0, isa)
	b.dword(gsi)
	b.word(flags)
}

// localAPIC is the structure of one processor: that of its local APIC, or of its local x2APIC (5.2.12.2, 5.2.12.12).
func localAPIC(uid int, id, flags uint32) []byte {
	le := binary.LittleEndian
	if id <= madtLargestXAPC {
		return le.AppendUint32([]byte{madtLocalAPIC, 8, byte(uid), byte(id)}, flags)
	}
	out := le.AppendUint32([]byte{madtLocalX2, 16, 0, 0}, id)
	return le.AppendUint32(le.AppendUint32(out, flags), uint32(uid))
}
