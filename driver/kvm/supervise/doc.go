// Package supervise starts engine processes apart from virtd, recognizes them later, and watches them end.
//
// An engine is in a session, network, IPC and PID namespace and cgroup of its own, under a uid of its own, and is no
// longer tied to virtd when Start returns: virtd's end does not touch it. A process is recognized by boot, pid and start
// time and then held by a pidfd, so that a reused pid is never taken for an engine.
//
// A mount namespace of its own is not used: it would keep every mount of the host busy for as long as the guest runs, and
// the engine gives up all paths by itself (hypervisor/confine). Left out: what the descriptors are (driver/kvm). Start
// reading at Start.
package supervise
