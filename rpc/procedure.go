package rpc

import "reflect"

// The programs on a connection and their only version.
const (
	ProgramRemote    = 0x20008086
	ProgramQEMU      = 0x20008087
	ProgramKeepalive = 0x6b656570
	programVersion   = 1
)

// Procedure is what the protocol says of one procedure. Values are never changed after start.
type Procedure struct {
	Number   uint32
	Name     string       // as in libvirt's protocol file, without the program's prefix
	API      string       // the public call of libvirt's library, for texts
	Args     reflect.Type // nil: no arguments
	Ret      reflect.Type // nil: an empty reply
	ReadOnly bool         // a read-only connection may call it, unless flags forbid: see deniedFlags
	Priority bool         // does not wait behind the client's ordinary calls
	Stream   bool         // a successful reply opens a stream
	Message  bool         // sent by the server only: an event
}

// LookupProcedure returns what is known of a procedure of a program, or nil.
func LookupProcedure(program, number uint32) *Procedure {
	var table []*Procedure
	switch program {
	case ProgramRemote:
		table = remoteIndex
	case ProgramQEMU:
		table = qemuIndex
	case ProgramPrivate:
		table = privateIndex
	}
	if number >= uint32(len(table)) {
		return nil
	}
	return table[number]
}

// The tables by number.
var (
	remoteIndex  = indexProcedures(remoteProcs)
	qemuIndex    = indexProcedures(qemuProcs)
	privateIndex = indexProcedures(privateProcs)
)

func indexProcedures(procs []Procedure) []*Procedure {
	var last uint32
	for i := range procs {
		last = max(last, procs[i].Number)
	}
	index := make([]*Procedure, last+1)
	for i := range procs {
		index[procs[i].Number] = &procs[i]
	}
	return index
}
