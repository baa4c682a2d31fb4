// Package bus dispatches guest port and memory accesses to the device that claims the address.
//
// A Space is one address space (ports or guest physical memory). Lookups take no lock and do not allocate, because each
// is on the path of a vCPU exit; changes copy the table. An address that nothing claims reads as all ones and ignores
// writes, as on a PC.
//
// The package leaves out what the devices do. Start reading at Space.
package bus
