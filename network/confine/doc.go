// Package confine locks in the processes that serve guests' networks: no new privileges, no files but those that tell about
// the host's resolvers, and only the system calls that sockets and Go's runtime need.
//
// The engine has its own (hypervisor/confine), which allows no sockets at all. Left out: uids, capabilities and resource
// limits, which whoever starts the process sets. Start reading at Apply.
package confine
