// Package hypervisor is the engine: it executes one machine described by a Config on KVM.
//
// Config is the seam to virtd: a complete, versioned description without paths, in which host resources are names of
// inherited descriptors. Machine runs it: memory, vCPUs, chipset and devices live in the packages below. Nothing here
// knows XML, networks or libvirt.
//
// What is written to RAM is recorded by one owner, Tracker of package dirtylog, which maps RAM as KVM's slots and knows each
// device that writes behind the engine's back; a new kind of device that does so is added to it (dirty.go). Package dirtyrate
// measures with it.
//
// Start reading at Config, then Machine.
package hypervisor
