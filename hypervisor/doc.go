// Package hypervisor is the engine: it executes one machine described by a Config on KVM.
//
// Config is the seam to virtd: a complete, versioned description without paths, in which host resources are names of
// inherited descriptors. Machine runs it: memory, vCPUs, chipset and devices live in the packages below. Nothing here
// knows XML, networks or libvirt.
//
// Start reading at Config, then Machine.
package hypervisor
