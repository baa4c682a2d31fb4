// Package manager is the running set of domains: which exist, what state each is in, who may change it, and what
// clients are told.
//
// Each domain has at most one modifying job at a time, with a deadline for getting it; queries and statistics never wait
// for a job. State changes follow what the engine reports, and events leave in the order they happened, with libvirt's
// numbers. A definition is durable before Define returns, and the record of a running domain before its engine runs, so
// that a later Manager finds every guest.
//
// Left out: XML (domain), files (domain/store), processes (driver), the wire (daemon).
//
// Start reading at Manager and Domain, then job.go and state.go.
package manager
