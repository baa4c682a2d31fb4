// Package memory is guest RAM: the regions a guest sees as memory, and the only place of the engine that turns a guest
// physical address into Go memory.
//
// Every access names an address and a length that the guest may have chosen, and is checked region by region without
// additions that could wrap. A range that leaves RAM, or that no single region holds where one is needed, is an error
// and never a panic. All writes by the host go through WriteAt, a Store method or are followed by MarkDirty, because
// KVM's dirty log sees only what vCPUs write.
//
// The package leaves out KVM: dirtylog registers Regions as memory slots and reads the record of the host's writes. Start reading at Memory.
package memory
