package pci

import (
	"encoding/binary"
	"fmt"
	"math"

	"virtd/hypervisor/bus"
)

// Sizes that an expansion ROM base address register can have (PCI 3.0, 6.2.5.2), in bytes.
const (
	LeastROM = 2 << 10
	MostROM  = 16 << 20
)

// AddROM adds an expansion ROM of size bytes, a power of two from LeastROM to MostROM. dev answers reads by offset while the
// guest decodes it. It panics on another size, which no guest can cause. Call it before Root.Add.
func (f *Function) AddROM(size uint64, dev bus.Device) {
	if size < LeastROM || size > MostROM || size&(size-1) != 0 || f.rom != nil || f.bridge != nil {
		panic(fmt.Sprintf("pci: no expansion ROM of %#x bytes", size))
	}
	b := &bar{BAR: BAR{Kind: Memory32, Size: size, Device: dev}}
	binary.LittleEndian.PutUint32(f.space.writable[regROM:], ^uint32(size-1)|romEnable)
	b.d = &decoder{f: f, size: size, dev: b, name: "ROM", target: func() (uint64, bool) { return f.romTarget(b) }}
	f.rom = b
	f.decoders = append(f.decoders, b.d)
}

// romTarget says where the ROM belongs now, if its function decodes it at all.
func (f *Function) romTarget(b *bar) (uint64, bool) {
	f.mu.Lock()
	v, g := f.space.u32(regROM), f.gates()
	f.mu.Unlock()
	base := uint64(v) &^ (b.Size - 1)
	on := v&romEnable != 0 && g.command&commandMemory != 0 && g.power == 0
	sane := base != 0 && b.Size-1 < math.MaxUint32-base // sizing leaves the last one behind
	return base, on && sane && f.parent.forwards(b, base)
}
