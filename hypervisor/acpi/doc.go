// Package acpi builds the ACPI tables of a machine: RSDP, XSDT, FADT, FACS, MADT, MCFG and a DSDT made with a small AML
// assembler of its own.
//
// Section numbers are those of ACPI 6.4. The platform is a full one, not hardware-reduced: fixed power button, PM timer
// and SCI as on the chips that package chipset emulates.
//
// Tables come out as two blobs, position-independent, with the pointer and checksum commands that fix them up. Place
// runs the commands for a direct kernel boot; firmware will get blobs and commands through fw_cfg.
//
// The bytes are a pure function of Config and part of the guest ABI: golden tests hold them still.
//
// The package leaves out hotplug of memory, sleep states other than S5, and tables about NUMA, HPET and IOMMUs. Start reading at
// Build.
package acpi
