package boot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"virtd/hypervisor/memory"
)

// ELF-64 fields (System V gABI, chapters 4 and 5).
const (
	elfHeaderSize = 64
	elfPhdrSize   = 56
	elfMaxPhdrs   = 64
	elfMaxNotes   = 64 << 10 // bytes of note segments read
	elfClass64    = 2
	elfLittle     = 1
	elfExec       = 2
	elfDyn        = 3
	elfX86_64     = 62
	elfPTLoad     = 1
	elfPTNote     = 4
)

// xenPhys32Entry is the note that gives the 32-bit entry (Xen include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY).
const (
	xenPhys32Entry = 18
	xenNoteName    = "Xen\x00"
)

// hvm_start_info (Xen include/public/arch-x86/hvm/start_info.h), version 1.
const (
	startMagic      = 0x336ec578
	startVersion    = 1
	startInfoSize   = 56
	startModuleSize = 32
	startMapSize    = 24
	startModuleAt   = startInfoAt + 64
	startMapAt      = startInfoAt + 128
	startMapMax     = (page - 128) / startMapSize
)

type segment struct {
	kind                         uint32
	offset, paddr, fileSz, memSz uint64
}

// readSegments reads the ELF header and the program headers.
func readSegments(s *Source) ([]segment, error) {
	var h [elfHeaderSize]byte
	if err := s.readFull(h[:], 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	kind := le.Uint16(h[16:])
	if h[4] != elfClass64 || h[5] != elfLittle || le.Uint16(h[18:]) != elfX86_64 || kind != elfExec && kind != elfDyn {
		return nil, errors.New("it is an ELF file, but no x86-64 executable")
	}
	off, size, n := le.Uint64(h[32:]), le.Uint16(h[54:]), int(le.Uint16(h[56:]))
	if size != elfPhdrSize || n == 0 || n > elfMaxPhdrs || off > uint64(s.Size) {
		return nil, fmt.Errorf("it has %d program headers of %d bytes at %#x; up to %d of %d bytes are expected", n, size, off, elfMaxPhdrs, elfPhdrSize)
	}
	table := make([]byte, n*elfPhdrSize)
	if err := s.readFull(table, int64(off)); err != nil {
		return nil, fmt.Errorf("program headers: %w", err)
	}
	segments := make([]segment, n)
	for i := range segments {
		p := table[i*elfPhdrSize:]
		g := segment{le.Uint32(p), le.Uint64(p[8:]), le.Uint64(p[24:]), le.Uint64(p[32:]), le.Uint64(p[40:])}
		if g.kind == elfPTLoad || g.kind == elfPTNote {
			if g.offset > uint64(s.Size) || g.fileSz > uint64(s.Size)-g.offset {
				return nil, fmt.Errorf("segment %d takes %d bytes at %#x of a file of %d", i, g.fileSz, g.offset, s.Size)
			}
		}
		segments[i] = g
	}
	return segments, nil
}

// pvhEntry finds the entry address in the note segments.
func pvhEntry(s *Source, segments []segment) (uint64, error) {
	for _, g := range segments {
		if g.kind != elfPTNote {
			continue
		}
		notes := make([]byte, min(g.fileSz, elfMaxNotes))
		if err := s.readFull(notes, int64(g.offset)); err != nil {
			return 0, fmt.Errorf("notes: %w", err)
		}
		if entry, ok := findNote(notes); ok {
			return entry, nil
		}
	}
	return 0, errors.New("it has no PVH entry note; use its bzImage, or a kernel with CONFIG_PVH")
}

// findNote walks notes: name size, descriptor size, type, name, descriptor, both padded to 4 bytes.
func findNote(b []byte) (uint64, bool) {
	le := binary.LittleEndian
	for len(b) >= 12 {
		nameSz, descSz, kind := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		b = b[12:]
		descAt := (nameSz + 3) &^ 3
		next := descAt + (descSz+3)&^3
		if descAt+descSz > uint64(len(b)) {
			return 0, false
		}
		if kind == xenPhys32Entry && nameSz == uint64(len(xenNoteName)) && string(b[:nameSz]) == xenNoteName {
			switch descSz {
			case 4:
				return uint64(le.Uint32(b[descAt:])), true
			case 8:
				return le.Uint64(b[descAt:]), true
			}
		}
		if next > uint64(len(b)) {
			return 0, false
		}
		b = b[next:]
	}
	return 0, false
}

func loadELF(p *Params) (*Loaded, error) {
	segments, err := readSegments(p.Kernel)
	if err != nil {
		return nil, err
	}
	entry, err := pvhEntry(p.Kernel, segments)
	if err != nil {
		return nil, err
	}
	kernel, err := p.putSegments(segments)
	if err != nil {
		return nil, err
	}
	if entry < kernel.GPA || entry-kernel.GPA >= kernel.Size || entry >= 4<<30 {
		return nil, fmt.Errorf("the entry %#x is outside what it loads", entry)
	}
	if err := p.putCmdline(cmdlineEnd - cmdlineAt - 1); err != nil {
		return nil, err
	}
	initrd, err := p.putInitrd(kernel.GPA+kernel.Size, 4<<30)
	if err != nil {
		return nil, err
	}
	if err := p.putStartInfo(initrd); err != nil {
		return nil, err
	}
	gdt := descriptors(false)
	if err := p.putWords(gdt, gdtAt); err != nil {
		return nil, err
	}
	return &Loaded{Kernel: kernel, Initrd: initrd, VCPU: VCPU{RIP: entry, RBX: startInfoAt, RFLAGS: rflagsReserved,
		CR0: cr0PE | cr0ET, GDT: Table{gdtAt, uint16(8*len(gdt) - 1)},
		CS: codeSegment(false), Data: dataSegment(), TR: taskSegment()}}, nil
}

// putSegments loads what is to be loaded and returns the range from the first to the last byte.
func (p *Params) putSegments(segments []segment) (memory.Range, error) {
	lo, hi := ^uint64(0), uint64(0)
	for i, g := range segments {
		if g.kind != elfPTLoad || g.memSz == 0 {
			continue
		}
		if g.fileSz > g.memSz || g.paddr < lowest || g.memSz > 1<<32 || g.paddr > 1<<32 {
			return memory.Range{}, fmt.Errorf("segment %d wants %d bytes, %d of them from the file, at %#x", i, g.memSz, g.fileSz, g.paddr)
		}
		if !p.isRAM(g.paddr, g.memSz) {
			return memory.Range{}, fmt.Errorf("segment %d needs %d bytes of RAM at %#x, which the guest does not have; give it more memory", i, g.memSz, g.paddr)
		}
		if err := p.into(p.Kernel, int64(g.offset), g.paddr, g.fileSz); err != nil {
			return memory.Range{}, fmt.Errorf("segment %d: %w", i, err)
		}
		if err := p.zero(g.paddr+g.fileSz, g.memSz-g.fileSz); err != nil {
			return memory.Range{}, err
		}
		lo, hi = min(lo, g.paddr), max(hi, g.paddr+g.memSz)
	}
	if hi == 0 {
		return memory.Range{}, errors.New("it has nothing to load")
	}
	return memory.Range{GPA: lo, Size: hi - lo}, nil
}

func (p *Params) zero(gpa, n uint64) error {
	if p.Zeroed || n == 0 {
		return nil
	}
	b, err := p.Memory.Slice(gpa, n)
	if err != nil {
		return err
	}
	clear(b)
	p.Memory.MarkDirty(gpa, n)
	return nil
}

// putStartInfo writes hvm_start_info with the memory map and, when there is one, the initrd as module.
func (p *Params) putStartInfo(initrd memory.Range) error {
	if len(p.Map) > startMapMax {
		return fmt.Errorf("the memory map has %d entries, and %d have room", len(p.Map), startMapMax)
	}
	var b [page]byte
	put32, put64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	put32(b[0:], startMagic)
	put32(b[4:], startVersion)
	if initrd.Size > 0 {
		put32(b[12:], 1)
		put64(b[16:], startModuleAt)
		put64(b[startModuleAt-startInfoAt:], initrd.GPA)
		put64(b[startModuleAt-startInfoAt+8:], initrd.Size)
	}
	put64(b[24:], cmdlineAt)
	put64(b[32:], p.RSDP)
	put64(b[40:], startMapAt)
	put32(b[48:], uint32(len(p.Map)))
	for i, e := range p.Map {
		m := b[startMapAt-startInfoAt+i*startMapSize:]
		put64(m, e.Base)
		put64(m[8:], e.Size)
		put32(m[16:], uint32(e.Type))
	}
	return p.Memory.WriteAt(b[:], startInfoAt)
}
