// Package smbios builds the SMBIOS tables (DMTF DSP0134 3.4) that tell a guest who it is: UUID, product, and how much
// memory and how many processors it has. Types 0, 1, 3, 4, 16, 17, 19, 32 and 127 are there.
//
// The bytes are a pure function of Config. The package leaves out OEM strings, baseboard, slots and NUMA. Start reading at
// Build.
package smbios
