// Package chipset is the fixed-function chips of a PC that are not PCI functions and not in the kernel: the 16550A serial
// port, the MC146818 clock, the i8042 keyboard controller, the ACPI power management block, the ways to reset a PC,
// QEMU's pvpanic and its registers of CPU hotplug. A file is a chip.
//
// Chips answer port accesses as bus.Device, from several vCPU threads at once. What the machine must do in consequence
// (reset, power off, note a panic) is reported to functions given at construction, which return at once. Interrupt
// controllers and the i8254 are KVM's.
//
// Each chip can be saved while the machine is stopped and restored into a new one. Start reading at the chip you want.
package chipset
