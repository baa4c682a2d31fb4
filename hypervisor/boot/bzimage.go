package boot

import (
	"encoding/binary"
	"fmt"
	"math"

	"virtd/hypervisor/memory"
)

// Offsets in the setup header, which have the same place in the file and in the zero page (boot.rst, "The Real-Mode
// Kernel Header"; struct boot_params).
const (
	hdrStart          = 0x1f1
	hdrSetupSects     = 0x1f1
	hdrVidMode        = 0x1fa
	hdrBootFlag       = 0x1fe
	hdrJump           = 0x200
	hdrMagic          = 0x202
	hdrVersion        = 0x206
	hdrLoader         = 0x210
	hdrLoadFlags      = 0x211
	hdrRamdiskImage   = 0x218
	hdrRamdiskSize    = 0x21c
	hdrCmdlinePtr     = 0x228
	hdrInitrdMax      = 0x22c
	hdrAlignment      = 0x230
	hdrRelocatable    = 0x234
	hdrXLoadFlags     = 0x236
	hdrCmdlineSize    = 0x238
	hdrPrefAddress    = 0x258
	hdrInitSize       = 0x260
	hdrEnd            = 0x268 // of what protocol 2.12 has
	hdrLast           = 0x290 // nothing of a later header may go beyond
	paramsRSDP        = 0x070
	paramsRamdiskHigh = 0x0c0
	paramsRamdiskSize = 0x0c4
	paramsE820Count   = 0x1e8
	paramsE820        = 0x2d0
	e820Max           = 128
	e820Size          = 20
)

const (
	bootFlag        = 0xaa55
	magicHdrS       = 0x53726448
	version2_12     = 0x020c // the first with xloadflags
	loadedHigh      = 1 << 0
	xlfKernel64     = 1 << 0
	xlfAbove4G      = 1 << 1
	loaderUndefined = 0xff
	vidModeNormal   = 0xffff
	entry64         = 0x200 // of the protected-mode code
	sector          = 512
	defaultSects    = 4
)

// setup is the setup header of a bzImage, copied once and then checked.
type setup struct {
	raw        [hdrLast]byte // the file's first bytes; the header is at hdrStart
	end        int           // of the header
	codeAt     int64         // offset of the protected-mode code in the file
	codeSize   uint64
	pref       uint64
	initSize   uint64
	align      uint64
	relocates  bool
	above4G    bool
	initrdMax  uint64
	cmdlineMax uint64
}

func (h *setup) u16(at int) uint16 { return binary.LittleEndian.Uint16(h.raw[at:]) }
func (h *setup) u32(at int) uint32 { return binary.LittleEndian.Uint32(h.raw[at:]) }
func (h *setup) u64(at int) uint64 { return binary.LittleEndian.Uint64(h.raw[at:]) }

// readSetup reads and checks the header.
func readSetup(s *Source) (*setup, error) {
	h := &setup{}
	if s.Size < 2*sector {
		return nil, fmt.Errorf("%w (%d bytes)", ErrUnknownKernel, s.Size)
	}
	if err := s.readFull(h.raw[:], 0); err != nil {
		return nil, err
	}
	if h.u16(hdrBootFlag) != bootFlag || h.u32(hdrMagic) != magicHdrS {
		return nil, ErrUnknownKernel
	}
	if v := h.u16(hdrVersion); v < version2_12 {
		return nil, fmt.Errorf("boot protocol %d.%02d; 2.12 or later is needed (Linux 3.8)", v>>8, v&0xff)
	}
	if h.u16(hdrXLoadFlags)&xlfKernel64 == 0 || h.raw[hdrLoadFlags]&loadedHigh == 0 {
		return nil, fmt.Errorf("it has no 64-bit entry; a 64-bit bzImage is needed")
	}
	h.end = hdrJump + 2 + int(h.raw[hdrJump+1])
	if h.end < hdrEnd || h.end > hdrLast {
		return nil, fmt.Errorf("the setup header ends at %#x, outside %#x to %#x", h.end, hdrEnd, hdrLast)
	}
	sects := int64(h.raw[hdrSetupSects])
	if sects == 0 {
		sects = defaultSects
	}
	h.codeAt = (sects + 1) * sector
	if h.codeAt+entry64 >= s.Size {
		return nil, fmt.Errorf("the setup code alone takes %d bytes of a file of %d", h.codeAt, s.Size)
	}
	h.codeSize = uint64(s.Size - h.codeAt)
	return h, h.checkPlacement()
}

// checkPlacement reads what says where the kernel may go.
func (h *setup) checkPlacement() error {
	h.pref, h.initSize = h.u64(hdrPrefAddress), uint64(h.u32(hdrInitSize))
	h.align, h.relocates = uint64(h.u32(hdrAlignment)), h.raw[hdrRelocatable] != 0
	h.above4G = h.u16(hdrXLoadFlags)&xlfAbove4G != 0
	h.initrdMax, h.cmdlineMax = uint64(h.u32(hdrInitrdMax)), uint64(h.u32(hdrCmdlineSize))
	if h.align == 0 || h.align&(h.align-1) != 0 || h.align > 1<<30 {
		return fmt.Errorf("kernel_alignment is %#x, which is no power of two up to 1 GiB", h.align)
	}
	if h.pref < lowest || h.pref > 1<<40 {
		return fmt.Errorf("pref_address is %#x, outside 1 MiB to 1 TiB", h.pref)
	}
	h.initSize = max(h.initSize, h.codeSize)
	return nil
}

// place chooses the load address: the preferred one, or for a guest too small for it the lowest that the alignment
// allows.
func (h *setup) place(p *Params) (uint64, error) {
	lowestAligned := (uint64(lowest) + h.align - 1) &^ (h.align - 1)
	if p.isRAM(h.pref, h.initSize) && h.pref+h.initSize <= 4<<30 {
		return h.pref, nil
	}
	if h.relocates && p.isRAM(lowestAligned, h.initSize) {
		return lowestAligned, nil
	}
	return 0, fmt.Errorf("it needs %d MiB of RAM at %#x, which the guest does not have; give it more memory", (h.initSize+1<<20-1)>>20, h.pref)
}

func loadBzImage(p *Params) (*Loaded, error) {
	h, err := readSetup(p.Kernel)
	if err != nil {
		return nil, err
	}
	at, err := h.place(p)
	if err != nil {
		return nil, err
	}
	if err := p.into(p.Kernel, h.codeAt, at, h.codeSize); err != nil {
		return nil, err
	}
	if err := p.putCmdline(h.cmdlineMax); err != nil {
		return nil, err
	}
	limit := min(h.initrdMax+1, 4<<30)
	if h.above4G {
		// The ext_ramdisk fields make any address fit; below 4 GiB comes first all the same.
		limit = 4 << 30
	}
	initrd, err := p.putInitrd(at+h.initSize, limit)
	if err != nil && h.above4G {
		initrd, err = p.putInitrd(at+h.initSize, math.MaxUint64)
	}
	if err != nil {
		return nil, err
	}
	if err := p.putZeroPage(h, initrd); err != nil {
		return nil, err
	}
	state, err := p.longMode()
	if err != nil {
		return nil, err
	}
	state.RIP, state.RSI = at+entry64, zeroPageAt
	return &Loaded{Kernel: memory.Range{GPA: at, Size: h.initSize}, Initrd: initrd, VCPU: *state}, nil
}

// putZeroPage writes struct boot_params.
func (p *Params) putZeroPage(h *setup, initrd memory.Range) error {
	if len(p.Map) > e820Max {
		return fmt.Errorf("the memory map has %d entries, and the boot protocol takes %d", len(p.Map), e820Max)
	}
	var z [page]byte
	put32, put64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	copy(z[hdrStart:h.end], h.raw[hdrStart:h.end])
	z[hdrLoader] = loaderUndefined
	binary.LittleEndian.PutUint16(z[hdrVidMode:], vidModeNormal)
	put32(z[hdrCmdlinePtr:], cmdlineAt)
	put32(z[hdrRamdiskImage:], uint32(initrd.GPA))
	put32(z[hdrRamdiskSize:], uint32(initrd.Size))
	put32(z[paramsRamdiskHigh:], uint32(initrd.GPA>>32))
	put32(z[paramsRamdiskSize:], uint32(initrd.Size>>32))
	put64(z[paramsRSDP:], p.RSDP)
	z[paramsE820Count] = byte(len(p.Map))
	for i, e := range p.Map {
		b := z[paramsE820+i*e820Size:]
		put64(b, e.Base)
		put64(b[8:], e.Size)
		put32(b[16:], uint32(e.Type))
	}
	return p.Memory.WriteAt(z[:], zeroPageAt)
}

// longMode writes the GDT and identity page tables of the first 4 GiB and returns the state that uses them.
func (p *Params) longMode() (*VCPU, error) {
	gdt := descriptors(true)
	if err := p.putWords(gdt, gdtAt); err != nil {
		return nil, err
	}
	const present, writable, large = 1, 2, 1 << 7
	var pml4, pdpt [512]uint64
	pml4[0] = pageTableAt + page | present | writable
	for i := range uint64(4) {
		var pd [512]uint64
		table := pageTableAt + (2+i)*page
		pdpt[i] = table | present | writable
		for j := range uint64(512) {
			pd[j] = i<<30 | j<<21 | present | writable | large
		}
		if err := p.putWords(pd[:], table); err != nil {
			return nil, err
		}
	}
	if err := p.putWords(pml4[:], pageTableAt); err != nil {
		return nil, err
	}
	if err := p.putWords(pdpt[:], pageTableAt+page); err != nil {
		return nil, err
	}
	return &VCPU{RFLAGS: rflagsReserved, CR0: cr0PE | cr0ET | cr0PG, CR3: pageTableAt, CR4: cr4PAE, EFER: eferLME | eferLMA,
		GDT: Table{gdtAt, uint16(8*len(gdt) - 1)}, CS: codeSegment(true), Data: dataSegment(), TR: taskSegment()}, nil
}

func (p *Params) putWords(words []uint64, gpa uint64) error {
	b := make([]byte, 0, 8*len(words))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return p.Memory.WriteAt(b, gpa)
}
