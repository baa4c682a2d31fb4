package coredump

import (
	"encoding/binary"
	"fmt"
)

// Sizes and numbers of the ELF format (System V gABI, figures 4-3, 5-1 and 5-2).
const (
	ehdrSize = 64
	phdrSize = 56

	etCore   = 4
	emX86_64 = 62
	ptLoad   = 1
	ptNote   = 4

	ntPrstatus   = 1
	maxSegments  = 1<<16 - 2 // e_phnum has 16 bits
	segmentAlign = 4096
)

// Region is guest RAM.
type Region struct{ GPA, Size uint64 }

// File is where everything goes in a core file.
type File struct {
	Head    []byte   // the first bytes
	Offsets []uint64 // of each region's RAM
	Size    uint64   // of the whole file
}

// Layout returns the file of a machine with these vCPUs and regions.
func Layout(cpus []CPU, regions []Region) (*File, error) {
	if len(regions) > maxSegments || len(cpus) == 0 {
		return nil, fmt.Errorf("core file of %d vCPUs and %d regions of RAM", len(cpus), len(regions))
	}
	var notes []byte
	for i := range cpus {
		notes = appendNote(notes, "CORE", ntPrstatus, cpus[i].prstatus(i))
	}
	for i := range cpus {
		notes = appendNote(notes, "QEMU", 0, cpus[i].qemuState())
	}
	notesAt := uint64(ehdrSize + phdrSize*(1+len(regions)))
	f := &File{Head: header(1 + len(regions))}
	f.Head = appendSegment(f.Head, ptNote, notesAt, 0, uint64(len(notes)), 4)
	at := align(notesAt+uint64(len(notes)), segmentAlign)
	for _, r := range regions {
		f.Head = appendSegment(f.Head, ptLoad, at, r.GPA, r.Size, segmentAlign)
		f.Offsets = append(f.Offsets, at)
		at = align(at+r.Size, segmentAlign)
	}
	f.Head, f.Size = append(f.Head, notes...), at
	return f, nil
}

func align(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }

// header is the ELF header of a file with n segments.
func header(n int) []byte {
	b := append(make([]byte, 0, 4096), 0x7f, 'E', 'L', 'F', 2, 1, 1)
	b = append(b, make([]byte, 9)...)
	le := binary.LittleEndian
	b = le.AppendUint16(le.AppendUint16(b, etCore), emX86_64)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(le.AppendUint64(le.AppendUint64(b, 0), ehdrSize), 0) // entry, program headers, sections
	b = le.AppendUint32(b, 0)
	for _, v := range []int{ehdrSize, phdrSize, n, 0, 0, 0} {
		b = le.AppendUint16(b, uint16(v))
	}
	return b
}

// appendSegment appends a program header. Its virtual address is the physical one: debuggers that know no page tables
// look memory up by it.
func appendSegment(b []byte, kind uint32, offset, paddr, size, alignment uint64) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(le.AppendUint32(b, kind), 0)
	for _, v := range []uint64{offset, paddr, paddr, size, size, alignment} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// appendNote appends one note with its padding to four bytes (gABI, note section).
func appendNote(b []byte, name string, kind uint32, desc []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(len(name)+1))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	b = append(append(b, name...), 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return append(b, desc...)
}
