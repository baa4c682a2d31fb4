// Package dirtylog knows which pages of guest RAM were written, by whomever: vCPUs, the engine's own devices, and all that
// write behind the engine's back.
//
// Tracker is the one owner of the record. It maps RAM as KVM's memory slots, because recording what vCPUs write is a flag of
// a slot (KVM_MEM_LOG_DIRTY_PAGES) that changes while they run; it starts and takes memory.Memory's record of the host's
// writes; and it asks every Source, such as a vhost device, whose writes neither of the two sees. A page counts as written
// when any of them says so. None is missed; KVM counts some that a vCPU only read, where it maps them anew meanwhile.
//
// Nothing is recorded, and nothing costs anything but one load for each write of the host, until Start. While it records,
// KVM maps RAM in pages of 4 KiB and the first write to each of them after a Read faults. Stop undoes both: KVM makes huge
// pages again as the guest touches them.
//
// The package leaves out what the record is good for (dirtyrate measures with it) and KVM's dirty ring, which has to be
// there before the first vCPU. Start reading at Tracker.
package dirtylog
