package boot

import (
	"errors"
	"fmt"
	"io"
	"os"

	"virtd/hypervisor/memory"
)

// Source is a file to load. It is read with ReadAt only, so that several machines can share one description.
type Source struct {
	io.ReaderAt
	Size int64  // bytes
	Name string // for messages
}

// FileSource describes an open regular file.
func FileSource(f *os.File) (*Source, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("find the size of %s: %w", f.Name(), err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("load %s: it is not a regular file", f.Name())
	}
	return &Source{ReaderAt: f, Size: st.Size(), Name: f.Name()}, nil
}

// MapType is the type of a range of the guest's memory map (ACPI 6.4, 15.4).
type MapType uint32

// Types of memory.
const (
	RAM      MapType = 1
	Reserved MapType = 2
	ACPI     MapType = 3 // tables, reclaimable
	ACPINVS  MapType = 4
)

// MapEntry is one range of the memory map that the kernel is given.
type MapEntry struct {
	Base, Size uint64
	Type       MapType
}

// Params is what Load needs.
type Params struct {
	Memory  *memory.Memory
	Kernel  *Source
	Initrd  *Source // nil for none
	Cmdline string
	Map     []MapEntry // in address order, disjoint
	RSDP    uint64     // guest physical address of the ACPI root pointer, 0 for none
	Zeroed  bool       // RAM reads as zero, so that what a kernel wants zeroed need not be touched
}

// Loaded says what went where.
type Loaded struct {
	Kernel, Initrd memory.Range // Initrd is empty without one
	VCPU           VCPU         // start state of the first vCPU
}

// Where structures go in low memory.
const (
	gdtAt       = 0x6000
	zeroPageAt  = 0x7000
	startInfoAt = 0x8000
	pageTableAt = 0x9000
	cmdlineAt   = 0x20000
	cmdlineEnd  = 0x30000
	lowest      = 1 << 20 // no part of a kernel or initrd goes below
	page        = 4096
)

// ErrUnknownKernel is returned (wrapped) for a file that is neither kind of kernel.
var ErrUnknownKernel = errors.New("neither a bzImage nor an ELF kernel")

// Load puts everything into guest RAM and returns the start state. RAM written before an error stays written.
func Load(p Params) (*Loaded, error) {
	var head [4]byte
	if err := p.Kernel.readFull(head[:], 0); err != nil {
		return nil, fmt.Errorf("load kernel %s: %w", p.Kernel.Name, err)
	}
	load := loadBzImage
	if string(head[:]) == "\x7fELF" {
		load = loadELF
	}
	out, err := load(&p)
	if err != nil {
		return nil, fmt.Errorf("load kernel %s: %w", p.Kernel.Name, err)
	}
	return out, nil
}

// readFull reads len(b) bytes at off, all of them or an error that says how far the file goes.
func (s *Source) readFull(b []byte, off int64) error {
	if off < 0 || int64(len(b)) > s.Size-off {
		return fmt.Errorf("the file ends at %d bytes, and %d bytes at %d are needed", s.Size, len(b), off)
	}
	n, err := s.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("the file became shorter while it was read: %d of %d bytes at %d", n, len(b), off)
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}

// into reads n bytes at off of s straight into guest RAM.
func (p *Params) into(s *Source, off int64, gpa, n uint64) error {
	if n == 0 {
		return nil
	}
	b, err := p.Memory.Slice(gpa, n)
	if err != nil {
		return err
	}
	if err := s.readFull(b, off); err != nil {
		return err
	}
	p.Memory.MarkDirty(gpa, n)
	return nil
}

// putCmdline stores the command line with its terminating zero. limit is what the kernel can take, without the zero.
func (p *Params) putCmdline(limit uint64) error {
	n := uint64(len(p.Cmdline))
	if n > limit || n >= cmdlineEnd-cmdlineAt {
		return fmt.Errorf("the command line has %d bytes, and this kernel takes %d", n, min(limit, cmdlineEnd-cmdlineAt-1))
	}
	for i := range n {
		if p.Cmdline[i] == 0 {
			return errors.New("the command line has a zero byte")
		}
	}
	return p.Memory.WriteAt(append([]byte(p.Cmdline), 0), cmdlineAt)
}

// putInitrd reads the initrd into RAM at the highest place that ends at or below limit, above the kernel's end.
func (p *Params) putInitrd(kernelEnd, limit uint64) (memory.Range, error) {
	if p.Initrd == nil || p.Initrd.Size == 0 {
		return memory.Range{}, nil
	}
	size := uint64(p.Initrd.Size)
	for i := len(p.Map) - 1; i >= 0; i-- {
		e := p.Map[i]
		end := min(e.Base+e.Size, limit)
		if e.Type != RAM || e.Base >= limit || end-e.Base < size {
			continue
		}
		at := (end - size) &^ (page - 1)
		if at < max(e.Base, kernelEnd, lowest) || !p.Memory.Contains(at, size) {
			continue
		}
		if err := p.into(p.Initrd, 0, at, size); err != nil {
			return memory.Range{}, fmt.Errorf("initrd %s: %w", p.Initrd.Name, err)
		}
		return memory.Range{GPA: at, Size: size}, nil
	}
	return memory.Range{}, fmt.Errorf("initrd %s has %d MiB, and the guest has no room for it above the kernel's end at %d MiB and below %d MiB; give it more memory",
		p.Initrd.Name, size>>20, kernelEnd>>20, limit>>20)
}

// isRAM reports whether n bytes at gpa are RAM in the map the kernel is given, and in one region.
func (p *Params) isRAM(gpa, n uint64) bool {
	for _, e := range p.Map {
		if e.Type == RAM && gpa >= e.Base && n <= e.Size && gpa-e.Base <= e.Size-n {
			return p.Memory.Contains(gpa, n)
		}
	}
	return false
}
