// Package boot puts a kernel, its initrd and its command line into guest RAM and says how the first vCPU starts.
//
// Two kinds of kernel are known by their contents: bzImage, entered by the 64-bit boot protocol (Linux
// Documentation/arch/x86/boot.rst), and ELF, entered by the PVH note (Xen docs/misc/pvh.pandoc). Files are read straight
// into guest RAM. They come from whoever defined the guest, so every field is checked; a kernel that is malformed or does
// not fit is an error that says which field and why.
//
// Low memory as this package lays it out; everything else below 1 MiB belongs to the machine:
//
//	0x06000  GDT with the segments that the 64-bit protocol names
//	0x07000  zero page (bzImage)
//	0x08000  hvm_start_info, initrd module, memory map (PVH)
//	0x09000  page tables: the first 4 GiB, identity, 2 MiB pages (bzImage)
//	0x20000  command line, up to 64 KiB
//
// The package leaves out firmware, compressed ELF and 32-bit kernels. Start reading at Load.
package boot
