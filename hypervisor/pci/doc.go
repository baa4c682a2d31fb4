// Package pci is the PCI and PCI Express side of the machine: configuration space of functions, buses and root ports,
// BARs, capabilities, MSI-X, the two ways a PC reaches configuration space (ports CF8/CFC and ECAM), and the assignment
// of bus numbers, BARs and bridge windows that firmware would do before a kernel boots.
//
// Names and offsets follow the PCI Local Bus Specification 3.0 and PCI Express Base 4.0.
//
// Start reading at Function.
package pci
