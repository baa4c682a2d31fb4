// Package coredump makes the head of an ELF core file of a machine: what comes before the bytes of its RAM.
//
// The file is ELF-64 of type ET_CORE (System V ABI, x86-64 supplement). A PT_NOTE has, for each vCPU, the note CORE
// NT_PRSTATUS with its general registers, which gdb and crash show as a thread, and the note QEMU of type 0 with its
// segment, table and control registers, by which crash finds the kernel wherever it runs. A PT_LOAD for each region of
// RAM has its guest physical address as p_paddr and as p_vaddr, by which gdb finds it; the guest's own virtual addresses are
// in its page tables.
//
// The package is pure: it computes bytes. Start reading at Layout.
package coredump
