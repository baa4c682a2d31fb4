package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/coredump"
	"virtd/hypervisor/kvm"
	"virtd/hypervisor/memory"
)

// msrKernelGSBase is IA32_KERNEL_GS_BASE (Intel SDM 4).
const msrKernelGSBase = 0xc0000102

// Dump writes an ELF core file of the guest to f, which it takes over: registers of every vCPU and all RAM. The guest
// stands still meanwhile and goes on after it as before; with live it stands still only while its registers are read, and
// RAM is of different moments. Where f can be positioned, pages of zeroes become holes; f must be empty then.
func (m *Machine) Dump(ctx context.Context, f *os.File, live bool) error {
	defer f.Close()
	ctx, end, err := m.job.begin(ctx, "dump", m.mem.Size())
	if err != nil {
		return fmt.Errorf("dump the guest: %w", err)
	}
	defer end()
	if err := m.dump(&jobWriter{ctx, &m.job, f}, live); err != nil {
		return fmt.Errorf("dump the guest: %w", err)
	}
	return nil
}

func (m *Machine) dump(w *jobWriter, live bool) error {
	m.mu.Lock()
	unlock := m.mu.Unlock
	defer func() { unlock() }()
	ran, err := m.haltForDump()
	if err != nil {
		return err
	}
	goOn := func() {
		if ran {
			m.goOn()
		}
		ran = false
	}
	defer goOn()
	layout, err := m.coreLayout()
	if err != nil {
		return err
	}
	if live { // end waits for the job before it unmaps RAM
		goOn()
		m.mu.Unlock()
		unlock = func() {}
	}
	return m.writeCore(w, layout)
}

// haltForDump is halt, which a crashed guest needs not: it is what dumps are made of. The caller holds mu.
func (m *Machine) haltForDump() (ran bool, err error) {
	if state, _ := m.status.get(); state == StateCrashed {
		return false, nil
	}
	return m.halt("dump")
}

func (m *Machine) coreLayout() (*coredump.File, error) {
	var cpus []coredump.CPU
	for _, c := range m.runner.cpus() {
		cpu, err := coreCPU(c.v)
		if err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", c.index, err)
		}
		cpus = append(cpus, *cpu)
	}
	var regions []coredump.Region
	for _, r := range m.mem.Regions() {
		regions = append(regions, coredump.Region{GPA: r.GPA, Size: r.Size})
	}
	return coredump.Layout(cpus, regions)
}

func coreCPU(v *kvm.VCPU) (*coredump.CPU, error) {
	r, err := v.Regs()
	if err != nil {
		return nil, err
	}
	s, err := v.SRegs()
	if err != nil {
		return nil, err
	}
	c := &coredump.CPU{RAX: r.RAX, RBX: r.RBX, RCX: r.RCX, RDX: r.RDX, RSI: r.RSI, RDI: r.RDI, RSP: r.RSP, RBP: r.RBP,
		R8: r.R8, R9: r.R9, R10: r.R10, R11: r.R11, R12: r.R12, R13: r.R13, R14: r.R14, R15: r.R15, RIP: r.RIP, RFLAGS: r.RFLAGS,
		CS: coreSegment(s.CS), DS: coreSegment(s.DS), ES: coreSegment(s.ES), FS: coreSegment(s.FS), GS: coreSegment(s.GS),
		SS: coreSegment(s.SS), LDT: coreSegment(s.LDT), TR: coreSegment(s.TR),
		GDT: coredump.Segment{Base: s.GDT.Base, Limit: uint32(s.GDT.Limit)}, IDT: coredump.Segment{Base: s.IDT.Base, Limit: uint32(s.IDT.Limit)},
		CR0: s.CR0, CR2: s.CR2, CR3: s.CR3, CR4: s.CR4}
	msrs, err := v.MSRs([]uint32{msrKernelGSBase})
	if err != nil {
		return nil, err
	}
	if len(msrs) == 1 {
		c.KernelGSBase = msrs[0].Value
	}
	return c, nil
}

func coreSegment(s kvm.Segment) coredump.Segment {
	return coredump.Segment{Selector: uint32(s.Selector), Limit: s.Limit, Base: s.Base,
		Flags: uint32(s.Type)<<8 | uint32(s.S)<<12 | uint32(s.DPL)<<13 | uint32(s.Present)<<15 | uint32(s.AVL)<<20 | uint32(s.L)<<21 |
			uint32(s.DB)<<22 | uint32(s.G)<<23}
}

// writeCore writes the file.
func (m *Machine) writeCore(w *jobWriter, layout *coredump.File) error {
	out := &coreFile{w: w}
	if err := out.writeAt(layout.Head, 0); err != nil {
		return err
	}
	regions := m.mem.Regions()
	err := m.mem.Scan(func(gpa uint64, data []byte) error {
		for i := range regions {
			if gpa-regions[i].GPA < regions[i].Size {
				return out.writeAt(data, layout.Offsets[i]+gpa-regions[i].GPA)
			}
		}
		return errors.New("a page outside of RAM")
	}, w.seen)
	if err != nil {
		return err
	}
	return out.finish(layout.Size)
}

// coreFile writes at growing offsets, with holes where the file can have them and zeroes where not.
type coreFile struct {
	w      *jobWriter
	at     uint64
	stream bool // cannot be positioned
}

func (c *coreFile) writeAt(data []byte, offset uint64) error {
	if err := c.skip(offset); err != nil {
		return err
	}
	n, err := c.w.Write(data)
	c.at += uint64(n)
	return err
}

// skip moves on to offset.
func (c *coreFile) skip(offset uint64) error {
	if !c.stream && offset > c.at {
		_, err := c.w.f.Seek(int64(offset-c.at), 1)
		if err == nil {
			c.at = offset
			return nil
		}
		if !errors.Is(err, unix.ESPIPE) {
			return err
		}
		c.stream = true
	}
	for offset > c.at {
		n, err := c.w.Write(zeroes[:min(offset-c.at, uint64(len(zeroes)))])
		c.at += uint64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

var zeroes [memory.PageSize]byte

// finish gives the file its size: what RAM ends with may be a hole.
func (c *coreFile) finish(size uint64) error {
	if !c.stream && size > c.at {
		if at, err := c.w.f.Seek(0, 1); err == nil {
			if err := c.w.f.Truncate(at + int64(size-c.at)); err == nil || !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
	}
	return c.skip(size)
}
