package kvm

import (
	"testing"
	"unsafe"
)

// TestABISizes compares each structure with the size bits of the request that carries it.
func TestABISizes(t *testing.T) {
	for _, c := range []struct {
		name string
		req  uintptr
		size uintptr
	}{
		{"kvm_userspace_memory_region", reqSetMemoryRegion, sizeOf[userMemoryRegion]()},
		{"kvm_dirty_log", reqGetDirtyLog, sizeOf[dirtyLogArg]()},
		{"kvm_regs", reqSetRegs, sizeOf[Regs]()},
		{"kvm_regs get", reqGetRegs, sizeOf[Regs]()},
		{"kvm_sregs", reqSetSRegs, sizeOf[SRegs]()},
		{"kvm_sregs get", reqGetSRegs, sizeOf[SRegs]()},
		{"kvm_fpu", reqSetFPU, sizeOf[FPU]()},
		{"kvm_lapic_state", reqSetLAPIC, sizeOf[LAPIC]()},
		{"kvm_xsave", reqSetXSave, sizeOf[[xsaveSize]byte]()},
		{"kvm_xcrs", reqSetXCRs, sizeOf[XCRs]()},
		{"kvm_debugregs", reqSetDebugRegs, sizeOf[DebugRegs]()},
		{"kvm_vcpu_events", reqSetVCPUEvents, sizeOf[VCPUEvents]()},
		{"kvm_mp_state", reqSetMPState, sizeOf[MPState]()},
		{"kvm_clock_data", reqSetClock, sizeOf[ClockData]()},
		{"kvm_clock_data get", reqGetClock, sizeOf[ClockData]()},
		{"kvm_irqchip", reqGetIRQChip, sizeOf[IRQChip]()},
		{"kvm_pit_config", reqCreatePIT2, sizeOf[pitConfig]()},
		{"kvm_pit_state2", reqSetPIT2, sizeOf[PIT]()},
		{"kvm_irqfd", reqIRQFD, sizeOf[irqfd]()},
		{"kvm_ioeventfd", reqIOEventFD, sizeOf[ioeventfd]()},
		{"kvm_irq_level", reqIRQLine, sizeOf[irqLevel]()},
		{"kvm_device_attr", reqSetDeviceAttr, sizeOf[deviceAttr]()},
		{"kvm_msi", reqSignalMSI, sizeOf[msi]()},
		{"kvm_enable_cap", reqEnableCap, sizeOf[enableCap]()},
		// Structures with a tail: the request has the size of the head.
		{"kvm_msrs", reqSetMSRs, unsafe.Offsetof(msrs{}.entries)},
		{"kvm_msr_list", reqGetMSRIndexList, unsafe.Offsetof(msrList{}.indices)},
		{"kvm_cpuid2", reqSetCPUID2, unsafe.Offsetof(cpuid2{}.entries)},
		{"kvm_irq_routing", reqSetGSIRouting, sizeOf[routing]()},
	} {
		if want := c.req >> 16 & 0x3fff; c.size != want {
			t.Errorf("%s has %d bytes, the request says %d", c.name, c.size, want)
		}
	}
}

// TestABIElements pins what no request number says: tail elements and offsets, as the C compiler lays them out.
func TestABIElements(t *testing.T) {
	for name, c := range map[string][2]uintptr{
		"kvm_msr_entry":              {sizeOf[MSR](), 16},
		"kvm_cpuid_entry2":           {sizeOf[CPUIDEntry](), 40},
		"kvm_irq_routing_entry":      {sizeOf[Route](), 48},
		"kvm_segment":                {sizeOf[Segment](), 24},
		"kvm_pit_channel_state":      {sizeOf[PITChannel](), 24},
		"kvm_vcpu_events.flags":      {unsafe.Offsetof(VCPUEvents{}.Flags), 0x14},
		"kvm_vcpu_events.smi":        {unsafe.Offsetof(VCPUEvents{}.SMI), 0x18},
		"kvm_vcpu_events.payload":    {unsafe.Offsetof(VCPUEvents{}.ExceptionPayload), 56},
		"kvm_clock_data.flags":       {unsafe.Offsetof(ClockData{}.Flags), 8},
		"kvm_clock_data.realtime":    {unsafe.Offsetof(ClockData{}.Realtime), 16},
		"kvm_ioeventfd.fd":           {unsafe.Offsetof(ioeventfd{}.fd), 0x14},
		"kvm_irqfd.resamplefd":       {unsafe.Offsetof(irqfd{}.resamplefd), 12},
		"kvm_irq_routing_entry.u":    {unsafe.Offsetof(Route{}.u), 16},
		"kvm_pit_channel.count_load": {unsafe.Offsetof(PITChannel{}.CountLoadTime), 16},
		"kvm_debugregs.flags":        {unsafe.Offsetof(DebugRegs{}.Flags), 48},
		"kvm_sregs.apic_base":        {unsafe.Offsetof(SRegs{}.APICBase), 272},
		"kvm_userspace_memory.uaddr": {unsafe.Offsetof(userMemoryRegion{}.uaddr), 24},
	} {
		if c[0] != c[1] {
			t.Errorf("%s is %d, want %d", name, c[0], c[1])
		}
	}
}
