// Package qmp is a client of an engine's monitor: QMP's framing, greeting, commands and events over a unix socket.
//
// The engine runs a guest and is trusted with nothing: lines, nesting and queues are bounded, and whatever breaks the
// protocol ends the connection. Commands of several callers are in flight at once and matched to replies by id.
//
// Left out: what the commands mean (driver/kvm, hypervisor/monitor). Start reading at Client.
package qmp
