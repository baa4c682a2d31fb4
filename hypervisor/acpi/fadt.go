package acpi

const facsAlign = 64

// facs makes the Firmware ACPI Control Structure (5.2.10), which has no checksum and has to be 64-byte aligned. No
// firmware waking, no global lock.
func (b *builder) facs() int {
	b.bytes([]byte("FACS")...)
	b.dword(64)
	b.zeros(24)
	b.bytes(2)
	b.zeros(31)
	return 0
}

// FADT fields (5.2.9).
const (
	fadtRevision = 5
	fadtSize     = 268

	fadtWBINVD   = 1 << 0
	fadtC1       = 1 << 2
	fadtNoSleep  = 1 << 5  // no fixed sleep button; the power button is fixed: its flag is clear
	fadtRTCFixed = 1 << 6  // RTC wake is not in fixed registers
	fadtReset    = 1 << 10 // reset register

	bootLegacy = 1 << 0 // ISA devices that have no other enumeration
	bootNoVGA  = 1 << 2
	bootNoASPM = 1 << 4
)

// fadt makes the Fixed ACPI Description Table. There is no SMI command port: the machine is always in ACPI mode. The
// 8042 flag is clear: only its reset line is there, and guests need not probe for a keyboard.
func (b *builder) fadt(c *Config, facs, dsdt int) int {
	at := b.begin("FACP", fadtRevision)
	b.zeros(fadtSize - headerSize)
	pm := uint32(c.Windows.PMBase)
	gpeOffset, gpeSize := c.Board.GPE0()
	gpe := pm + uint32(gpeOffset)
	b.put16(at+46, SCI)
	for _, r := range []struct {
		old, oldLen, x int
		port           uint32
		size           byte
		access         byte
	}{
		{56, 88, 148, pm + PM1Event, 4, accessWord},
		{64, 89, 172, pm + PM1Control, 2, accessWord},
		{76, 91, 208, pm + PMTimer, 4, accessDword},
		{80, 92, 220, gpe, gpeSize, accessByte},
	} {
		b.put32(at+r.old, r.port)
		b.put8(at+r.oldLen, r.size)
		b.gas(at+r.x, r.port, r.size, r.access)
	}
	b.put16(at+96, 0xfff) // C2 and C3 latencies: not supported
	b.put16(at+98, 0xfff)
	b.put8(at+108, 0x32) // century in CMOS
	b.put16(at+109, bootLegacy|bootNoVGA|bootNoASPM)
	b.put32(at+112, fadtWBINVD|fadtC1|fadtNoSleep|fadtRTCFixed|fadtReset)
	b.gas(at+116, ResetPort, 1, accessByte)
	b.put8(at+128, ResetValue)
	b.put8(at+131, 1) // minor version
	b.pointer(at+36, 4, facs)
	b.pointer(at+40, 4, dsdt)
	b.pointer(at+140, 8, dsdt)
	b.end(at)
	return at
}

// Access sizes of a Generic Address Structure.
const (
	accessByte  = 1
	accessWord  = 2
	accessDword = 3
)

// gas writes a Generic Address Structure (5.2.3.2) of a port range.
func (b *builder) gas(at int, port uint32, size, access byte) {
	b.put8(at, 1) // system I/O
	b.put8(at+1, size*8)
	b.put8(at+3, access)
	b.put32(at+4, port)
}
