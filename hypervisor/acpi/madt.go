package acpi

// MADT structures (5.2.12).
const (
	madtRevision = 3 // before the online-capable flag: a disabled processor may come later

	madtPCAT = 1 << 0 // an i8259 pair is there too

	madtLocalAPIC   = 0
	madtIOAPIC      = 1
	madtOverride    = 2
	madtLocalNMI    = 4
	madtLocalX2     = 9
	madtLocalX2NMI  = 10
	madtEnabled     = 1
	madtLevelHigh   = 3<<2 | 1 // trigger and polarity of an override
	madtAllUIDs     = 0xff
	madtLargestXAPC = 254
)

// madt makes the Multiple APIC Description Table.
func (b *builder) madt(c *Config) int {
	at := b.begin("APIC", madtRevision)
	b.dword(LAPICBase)
	b.dword(madtPCAT)
	x2 := false
	for uid, cpu := range c.CPUs {
		flags := uint32(0)
		if cpu.Online {
			flags = madtEnabled
		}
		if cpu.APICID <= madtLargestXAPC {
			b.bytes(madtLocalAPIC, 8, byte(uid), byte(cpu.APICID))
			b.dword(flags)
			continue
		}
		x2 = true
		b.bytes(madtLocalX2, 16, 0, 0)
		b.dword(cpu.APICID)
		b.dword(flags)
		b.dword(uint32(uid))
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
