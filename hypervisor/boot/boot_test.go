package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/hypervisor/memory"
)

const testRAM = 64 << 20

func newMemory(t testing.TB, size uint64) *memory.Memory {
	t.Helper()
	m, err := memory.FromRegions(memory.Region{Size: size, Host: make([]byte, size), File: -1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func source(b []byte) *Source { return &Source{bytes.NewReader(b), int64(len(b)), "kernel"} }

func params(t testing.TB, kernel, initrd []byte) *Params {
	p := &Params{Memory: newMemory(t, testRAM), Kernel: source(kernel), Cmdline: "console=ttyS0", RSDP: 0xe0000,
		Map: []MapEntry{{0, 0x9fc00, RAM}, {0xf0000, 0x10000, Reserved}, {1 << 20, testRAM - 1<<20, RAM}}}
	if initrd != nil {
		p.Initrd = source(initrd)
		p.Initrd.Name = "initrd"
	}
	return p
}

// bzImage builds one with 1 setup sector and the code given.
func bzImage(code []byte) []byte {
	b := make([]byte, 2*sector)
	le := binary.LittleEndian
	b[hdrSetupSects] = 1
	le.PutUint16(b[hdrBootFlag:], bootFlag)
	b[hdrJump], b[hdrJump+1] = 0xeb, 0x6a
	le.PutUint32(b[hdrMagic:], magicHdrS)
	le.PutUint16(b[hdrVersion:], 0x20f)
	b[hdrLoadFlags] = loadedHigh
	le.PutUint32(b[hdrInitrdMax:], 0x7fffffff)
	le.PutUint32(b[hdrAlignment:], 2<<20)
	b[hdrRelocatable] = 1
	le.PutUint16(b[hdrXLoadFlags:], xlfKernel64|xlfAbove4G)
	le.PutUint32(b[hdrCmdlineSize:], 2047)
	le.PutUint64(b[hdrPrefAddress:], 16<<20)
	le.PutUint32(b[hdrInitSize:], 8<<20)
	return append(b, code...)
}

// elf builds an executable with one loaded segment at 16 MiB and a PVH note.
func elf(code []byte, entry uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, elfHeaderSize+2*elfPhdrSize+20)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], elfExec)
	le.PutUint16(b[18:], elfX86_64)
	le.PutUint64(b[32:], elfHeaderSize)
	le.PutUint16(b[54:], elfPhdrSize)
	le.PutUint16(b[56:], 2)
	note := elfHeaderSize + 2*elfPhdrSize
	load := b[elfHeaderSize:]
	le.PutUint32(load, elfPTLoad)
	le.PutUint64(load[8:], uint64(len(b)))
	le.PutUint64(load[24:], 16<<20)
	le.PutUint64(load[32:], uint64(len(code)))
	le.PutUint64(load[40:], uint64(len(code))+4096)
	p := b[elfHeaderSize+elfPhdrSize:]
	le.PutUint32(p, elfPTNote)
	le.PutUint64(p[8:], uint64(note))
	le.PutUint64(p[32:], 20)
	le.PutUint32(b[note:], 4)
	le.PutUint32(b[note+4:], 4)
	le.PutUint32(b[note+8:], xenPhys32Entry)
	copy(b[note+12:], xenNoteName)
	le.PutUint32(b[note+16:], entry)
	return append(b, code...)
}

func TestBzImage(t *testing.T) {
	code := bytes.Repeat([]byte("kernel"), 1000)
	p := params(t, bzImage(code), []byte("the initrd"))
	out, err := Load(*p)
	if err != nil {
		t.Fatal(err)
	}
	if out.Kernel != (memory.Range{GPA: 16 << 20, Size: 8 << 20}) || out.Initrd != (memory.Range{GPA: testRAM - 4096, Size: 10}) {
		t.Errorf("kernel at %+v, initrd at %+v", out.Kernel, out.Initrd)
	}
	at := func(gpa uint64, n int) []byte {
		b := make([]byte, n)
		if err := p.Memory.ReadAt(b, gpa); err != nil {
			t.Fatal(err)
		}
		return b
	}
	le := binary.LittleEndian
	if !bytes.Equal(at(16<<20, len(code)), code) || string(at(out.Initrd.GPA, 10)) != "the initrd" ||
		string(at(cmdlineAt, 14)) != "console=ttyS0\x00" {
		t.Error("contents are not where they should be")
	}
	z := at(zeroPageAt, 4096)
	if le.Uint64(z[paramsRSDP:]) != 0xe0000 || z[hdrLoader] != 0xff || le.Uint32(z[hdrCmdlinePtr:]) != cmdlineAt ||
		le.Uint32(z[hdrRamdiskImage:]) != testRAM-4096 || le.Uint32(z[hdrRamdiskSize:]) != 10 || z[paramsE820Count] != 3 ||
		le.Uint64(z[paramsE820+2*e820Size:]) != 1<<20 || le.Uint32(z[paramsE820+e820Size+16:]) != 2 || le.Uint32(z[hdrMagic:]) != magicHdrS {
		t.Errorf("zero page:\n% x", z[:0x300])
	}
	v := out.VCPU
	if v.RIP != 16<<20+0x200 || v.RSI != zeroPageAt || v.CS.Selector != 0x10 || !v.CS.Long || v.Data.Selector != 0x18 ||
		v.CR0 != 0x80000011 || v.CR4 != 0x20 || v.EFER != 0x500 || v.RFLAGS != 2 {
		t.Errorf("vCPU: %+v", v)
	}
	for _, gpa := range []uint64{0, 16 << 20, 1<<32 - 1} {
		if got := walk(p.Memory, v.CR3, gpa); got != gpa {
			t.Errorf("page tables map %#x to %#x", gpa, got)
		}
	}
	if gdt := at(v.GDT.Base, int(v.GDT.Limit)+1); le.Uint64(gdt[v.CS.Selector:]) != 0x00af9b000000ffff || le.Uint64(gdt[v.Data.Selector:]) != 0x00cf93000000ffff {
		t.Errorf("GDT % x", gdt)
	}
}

// walk translates with 2 MiB pages, as a CPU would.
func walk(m *memory.Memory, cr3, va uint64) uint64 {
	table := cr3
	for _, shift := range []uint{39, 30, 21} {
		var e [8]byte
		if m.ReadAt(e[:], table&^0xfff+8*(va>>shift&511)) != nil {
			return ^uint64(0)
		}
		if table = binary.LittleEndian.Uint64(e[:]); table&1 == 0 {
			return ^uint64(0)
		}
		if table&0x80 != 0 {
			return table&^0x1fffff | va&0x1fffff
		}
	}
	return ^uint64(0)
}

func TestBzImageInASmallGuest(t *testing.T) {
	p := params(t, bzImage([]byte(strings.Repeat("x", 1024))), nil)
	p.Map[2].Size = 12 << 20
	out, err := Load(*p)
	if err != nil {
		t.Fatal(err)
	}
	if out.Kernel.GPA != 2<<20 || out.VCPU.RIP != 2<<20+0x200 {
		t.Errorf("kernel at %#x", out.Kernel.GPA)
	}
}

func TestPVH(t *testing.T) {
	code := []byte("32-bit code")
	p := params(t, elf(code, 16<<20+4), []byte("the initrd"))
	bss, _ := p.Memory.Slice(16<<20, 4096)
	for i := range bss {
		bss[i] = 0xcc
	}
	out, err := Load(*p)
	if err != nil {
		t.Fatal(err)
	}
	if string(bss[:len(code)]) != string(code) || bss[len(code)] != 0 || bss[4095] != 0 {
		t.Error("segment not loaded or not zeroed behind its file part")
	}
	le := binary.LittleEndian
	b, _ := p.Memory.Slice(startInfoAt, 4096)
	if le.Uint32(b) != 0x336ec578 || le.Uint32(b[4:]) != 1 || le.Uint32(b[12:]) != 1 || le.Uint64(b[16:]) != startModuleAt ||
		le.Uint64(b[24:]) != cmdlineAt || le.Uint64(b[32:]) != 0xe0000 || le.Uint64(b[40:]) != startMapAt || le.Uint32(b[48:]) != 3 ||
		le.Uint64(b[64:]) != out.Initrd.GPA || le.Uint64(b[72:]) != 10 || le.Uint64(b[128+2*24:]) != 1<<20 {
		t.Errorf("start info % x", b[:256])
	}
	v := out.VCPU
	if v.RIP != 16<<20+4 || v.RBX != startInfoAt || v.CR0 != 0x11 || v.CS.Long || !v.CS.Big || v.EFER != 0 || v.CR4 != 0 {
		t.Errorf("vCPU: %+v", v)
	}
}

func TestHostileKernels(t *testing.T) {
	le := binary.LittleEndian
	bz := func(change func(b []byte)) func() []byte {
		return func() []byte { b := bzImage(make([]byte, 4096)); change(b); return b }
	}
	el := func(change func(b []byte)) func() []byte {
		return func() []byte { b := elf(make([]byte, 64), 16<<20); change(b); return b }
	}
	ph := func(field int, v uint64) func() []byte {
		return el(func(b []byte) { le.PutUint64(b[elfHeaderSize+field:], v) })
	}
	for name, c := range map[string]struct {
		make func() []byte
		want string
	}{
		"empty":               {func() []byte { return nil }, "ends at 0"},
		"text":                {func() []byte { return bytes.Repeat([]byte("hello "), 1000) }, "neither"},
		"short":               {func() []byte { return bzImage(nil)[:600] }, "neither"},
		"no code":             {func() []byte { return bzImage(nil) }, "setup code alone"},
		"setup beyond file":   {bz(func(b []byte) { b[hdrSetupSects] = 255 }), "setup code alone"},
		"old protocol":        {bz(func(b []byte) { le.PutUint16(b[hdrVersion:], 0x204) }), "2.12 or later"},
		"32-bit":              {bz(func(b []byte) { b[hdrXLoadFlags] = 0 }), "64-bit entry"},
		"zImage":              {bz(func(b []byte) { b[hdrLoadFlags] = 0 }), "64-bit entry"},
		"header too long":     {bz(func(b []byte) { b[hdrJump+1] = 0xff }), "setup header ends"},
		"header too short":    {bz(func(b []byte) { b[hdrJump+1] = 0 }), "setup header ends"},
		"alignment 0":         {bz(func(b []byte) { le.PutUint32(b[hdrAlignment:], 0) }), "kernel_alignment"},
		"alignment 3":         {bz(func(b []byte) { le.PutUint32(b[hdrAlignment:], 3) }), "kernel_alignment"},
		"prefers 0":           {bz(func(b []byte) { le.PutUint64(b[hdrPrefAddress:], 0) }), "pref_address"},
		"prefers the end":     {bz(func(b []byte) { le.PutUint64(b[hdrPrefAddress:], 1<<64-4096) }), "pref_address"},
		"huge init_size":      {bz(func(b []byte) { le.PutUint32(b[hdrInitSize:], 0xffffffff) }), "more memory"},
		"no command line":     {bz(func(b []byte) { le.PutUint32(b[hdrCmdlineSize:], 5) }), "command line"},
		"ELF 32":              {el(func(b []byte) { b[4] = 1 }), "no x86-64 executable"},
		"ELF arm64":           {el(func(b []byte) { b[18] = 183 }), "no x86-64 executable"},
		"ELF object":          {el(func(b []byte) { b[16] = 1 }), "no x86-64 executable"},
		"ELF truncated":       {func() []byte { return elf(nil, 0)[:40] }, "ends at"},
		"ELF no headers":      {el(func(b []byte) { b[56] = 0 }), "program headers"},
		"ELF many headers":    {el(func(b []byte) { le.PutUint16(b[56:], 0xffff) }), "program headers"},
		"ELF headers outside": {el(func(b []byte) { le.PutUint64(b[32:], 1<<63) }), "program headers"},
		"ELF headers at end":  {el(func(b []byte) { le.PutUint64(b[32:], uint64(len(b)-8)) }), "program headers"},
		"offset wraps":        {ph(8, 1<<64-8), "segment 0"},
		"file size wraps":     {ph(32, 1<<64-8), "segment 0"},
		"address wraps":       {ph(24, 1<<64-8), "segment 0"},
		"memory size wraps":   {ph(40, 1<<64-8), "segment 0"},
		"over low memory":     {ph(24, 0x7000), "segment 0"},
		"beyond RAM":          {ph(24, testRAM-100), "more memory"},
		"less than its file":  {ph(40, 1), "segment 0"},
		"no note":             {el(func(b []byte) { le.PutUint32(b[elfHeaderSize+elfPhdrSize:], 0) }), "PVH entry"},
		"note of another":     {el(func(b []byte) { b[elfHeaderSize+2*elfPhdrSize+12] = 'Y' }), "PVH entry"},
		"note size wraps":     {el(func(b []byte) { le.PutUint32(b[elfHeaderSize+2*elfPhdrSize:], 0xffffffff) }), "PVH entry"},
		"entry outside":       {el(func(b []byte) { le.PutUint32(b[elfHeaderSize+2*elfPhdrSize+16:], 0x7000) }), "entry"},
		"nothing to load":     {el(func(b []byte) { le.PutUint64(b[elfHeaderSize+32:], 0); le.PutUint64(b[elfHeaderSize+40:], 0) }), "nothing to load"},
	} {
		_, err := Load(*params(t, c.make(), nil))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestHostileInitrdsAndCommandLines(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *Params)
		want   string
	}{
		"too large":     {func(p *Params) { p.Initrd = source(make([]byte, testRAM-20<<20)) }, "no room"},
		"shrank":        {func(p *Params) { p.Initrd.Size = 1 << 20 }, "shorter"},
		"zero byte":     {func(p *Params) { p.Cmdline = "a\x00b" }, "zero byte"},
		"long cmdline":  {func(p *Params) { p.Cmdline = strings.Repeat("a", 2048) }, "command line"},
		"too many maps": {func(p *Params) { p.Map = append(p.Map, make([]MapEntry, 200)...) }, "memory map"},
		"tiny guest":    {func(p *Params) { p.Map = p.Map[:2] }, "more memory"},
	} {
		p := params(t, bzImage(make([]byte, 4096)), []byte("initrd"))
		c.change(p)
		if _, err := Load(*p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	p := params(t, bytes.Repeat([]byte{1}, 5000), nil)
	if _, err := Load(*p); !errors.Is(err, ErrUnknownKernel) {
		t.Errorf("not ErrUnknownKernel: %v", err)
	}
}

func TestFileSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(path, bzImage(make([]byte, 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := FileSource(f)
	if err != nil || s.Size != 2*sector+4096 {
		t.Fatalf("%+v, %v", s, err)
	}
	p := params(t, nil, nil)
	p.Kernel = s
	if _, err := Load(*p); err != nil {
		t.Error(err)
	}
	dir, _ := os.Open(t.TempDir())
	defer dir.Close()
	if _, err := FileSource(dir); err == nil {
		t.Error("a directory was taken as a file")
	}
}

// fuzzLoad loads arbitrary bytes: an error or a start state inside the kernel, never a panic, and nothing written where
// the map says there is no RAM.
func fuzzLoad(t *testing.T, kernel []byte) {
	if len(kernel) > 1<<20 {
		return
	}
	p := params(t, kernel, []byte("initrd"))
	out, err := Load(*p)
	if err != nil {
		return
	}
	if v := out.VCPU; v.RIP < out.Kernel.GPA || v.RIP >= out.Kernel.GPA+out.Kernel.Size {
		t.Errorf("entry %#x outside the kernel at %+v", v.RIP, out.Kernel)
	}
	if out.Initrd.GPA < out.Kernel.GPA+out.Kernel.Size {
		t.Errorf("initrd %+v over kernel %+v", out.Initrd, out.Kernel)
	}
	hole, _ := p.Memory.Slice(0xa0000, 0x60000)
	for i, b := range hole {
		if b != 0 {
			t.Fatalf("byte written at %#x", 0xa0000+i)
		}
	}
}

func FuzzBzImage(f *testing.F) {
	f.Add(bzImage(make([]byte, 4096)))
	f.Add(bzImage(nil))
	f.Add([]byte("HdrS"))
	f.Fuzz(fuzzLoad)
}

func FuzzELF(f *testing.F) {
	f.Add(elf(make([]byte, 64), 16<<20))
	f.Add(elf(nil, 0))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(fuzzLoad)
}
