package probe

import "encoding/binary"

// Where things are in the probe guest's RAM.
const (
	ramSize   = 1 << 20
	gdtAt     = 0x500
	pml4At    = 0x1000
	pdptAt    = 0x2000
	pdAt      = 0x3000
	stackTop  = 0x7000
	codeAt    = 0x8000
	codeSel   = 0x08
	stackSel  = 0x10
	stepPort  = 0x80
	stepCount = 3
)

// steps name what the guest did when it writes 1, 2, 3 to stepPort.
var steps = [stepCount + 1]string{"its first instruction", "cmpxchg16b", "swapgs", "iretq"}

// code is the guest's program, 64-bit at level 0:
//
//	mov $0x9000,%edi; xor %eax,%eax; xor %edx,%edx; mov $1,%ebx; xor %ecx,%ecx
//	lock cmpxchg16b (%rdi);            mov $1,%al; out %al,$0x80
//	swapgs; swapgs;                    mov $2,%al; out %al,$0x80
//	mov %rsp,%rax; push $0x10; push %rax; pushf; push $8; lea 1f(%rip),%rax; push %rax
//	iretq; 1:                          mov $3,%al; out %al,$0x80; hlt
var code = []byte{
	0xbf, 0x00, 0x90, 0x00, 0x00, 0x31, 0xc0, 0x31, 0xd2, 0xbb, 0x01, 0x00, 0x00, 0x00, 0x31, 0xc9,
	0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xb0, 0x01, 0xe6, 0x80,
	0x0f, 0x01, 0xf8, 0x0f, 0x01, 0xf8, 0xb0, 0x02, 0xe6, 0x80,
	0x48, 0x89, 0xe0, 0x6a, 0x10, 0x50, 0x9c, 0x6a, 0x08, 0x48, 0x8d, 0x05, 0x03, 0x00, 0x00, 0x00, 0x50,
	0x48, 0xcf, 0xb0, 0x03, 0xe6, 0x80, 0xf4,
}

// load puts the program, its page tables (the first 2 MiB, identity) and its descriptors into ram.
func load(ram []byte) {
	const present, writable, large = 1, 2, 1 << 7 // Intel SDM volume 3A, 4.5
	put := func(at int, v uint64) { binary.LittleEndian.PutUint64(ram[at:], v) }
	put(pml4At, pdptAt|present|writable)
	put(pdptAt, pdAt|present|writable)
	put(pdAt, present|writable|large)
	put(gdtAt+codeSel, 0x00af9b000000ffff)  // 64-bit code, level 0
	put(gdtAt+stackSel, 0x00cf93000000ffff) // data, level 0
	copy(ram[codeAt:], code)
}
