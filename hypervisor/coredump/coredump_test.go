package coredump

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"testing"
)

func TestLayout(t *testing.T) {
	cpus := []CPU{{RIP: 0xffffffff81000000, RSP: 0x1234, CS: Segment{Selector: 0x10}}, {R15: 15, CR3: 0x1000, KernelGSBase: 7}}
	regions := []Region{{0, 1 << 20}, {4 << 30, 8192}}
	f, err := Layout(cpus, regions)
	if err != nil {
		t.Fatal(err)
	}
	e, err := elf.NewFile(bytes.NewReader(append(f.Head, make([]byte, 64)...)))
	if err != nil {
		t.Fatal(err)
	}
	if e.Type != elf.ET_CORE || e.Machine != elf.EM_X86_64 || len(e.Progs) != 3 {
		t.Fatalf("type %v, machine %v, %d segments", e.Type, e.Machine, len(e.Progs))
	}
	for i, r := range regions {
		p := e.Progs[1+i]
		if p.Type != elf.PT_LOAD || p.Paddr != r.GPA || p.Vaddr != r.GPA || p.Filesz != r.Size || p.Memsz != r.Size || p.Off != f.Offsets[i] || p.Off%4096 != 0 {
			t.Errorf("segment %d: %+v", i, p.ProgHeader)
		}
	}
	if end := f.Offsets[1] + 8192; f.Size != end || f.Offsets[0] < uint64(len(f.Head)) || f.Offsets[1] < f.Offsets[0]+1<<20 {
		t.Errorf("offsets %#x, size %#x, head %d", f.Offsets, f.Size, len(f.Head))
	}
	notes, err := io.ReadAll(e.Progs[0].Open())
	if err != nil {
		t.Fatal(err)
	}
	list := parseNotes(t, notes)
	if len(list) != 4 || list[0].name != "CORE" || list[2].name != "QEMU" {
		t.Fatalf("%d notes", len(list))
	}
	if d := list[0].desc; len(d) != 336 || u64(d, 112+16*8) != cpus[0].RIP || u64(d, 112+19*8) != 0x1234 || u64(d, 112+17*8) != 0x10 || d[32] != 1 {
		t.Errorf("registers of vCPU 0: % x", d)
	}
	if d := list[1].desc; u64(d, 112) != 15 || d[32] != 2 {
		t.Errorf("registers of vCPU 1: % x", d)
	}
	if d := list[3].desc; len(d) != 440 || binary.LittleEndian.Uint32(d[4:]) != 440 || u64(d, 392+3*8) != 0x1000 || u64(d, 432) != 7 {
		t.Errorf("state of vCPU 1: % x", d)
	}
	if _, err := Layout(nil, regions); err == nil {
		t.Error("a machine without processors")
	}
}

func u64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

type note struct {
	name string
	desc []byte
}

func parseNotes(t *testing.T, b []byte) (list []note) {
	t.Helper()
	for len(b) >= 12 {
		namesz, descsz := int(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint32(b[4:]))
		b = b[12:]
		name := string(b[:namesz-1])
		b = b[(namesz+3)&^3:]
		list = append(list, note{name, b[:descsz]})
		b = b[(descsz+3)&^3:]
	}
	if len(b) != 0 {
		t.Errorf("%d bytes after the notes", len(b))
	}
	return list
}
