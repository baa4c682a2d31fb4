package rpc

// ProgramPrivate is the number of virtd's own program, version 1, for what libvirt has no procedure for. It spells "virt"
// and is outside the range that libvirt uses (0x20008086 and following, 0x06900690, 0x6b656570, 0x00068000). It shares the
// connection, the codec and the access rules; CONNECT_OPEN comes first as for every other call. Numbers are never reused;
// a change of a structure is a new procedure.
const ProgramPrivate = 0x76697274

// These are the procedures of the private program.
const (
	PrivProcHostCheck = 1 // what this host can and cannot do for guests

	// 20 to 39 are for devices of the host, see private_device.go.
	PrivProcDeviceDetach  = 20 // take a device from its driver, as virNodeDeviceDetachFlags does, or its whole IOMMU group
	PrivProcFunctionList  = 21 // cards with SR-IOV and their virtual functions
	PrivProcFunctionCount = 22 // make virtual functions, or remove them
	PrivProcFunctionSet   = 23 // what a card does for one of its virtual functions

	// 60 to 79 are for the host's network links, see private_bridge.go.
	PrivProcBridgeList    = 60 // bridges of the host
	PrivProcBridgeCreate  = 61
	PrivProcBridgeDelete  = 62
	PrivProcBridgePort    = 63 // put a link on a bridge or take it away, with the addresses that it has
	PrivProcBridgeConfirm = 64 // the host can still be reached after that
	PrivProcTapList       = 65 // taps, and whose they are
)

// PrivHostCheckArgs asks for the host's verdict. Flags must be 0.
type PrivHostCheckArgs struct {
	Flags uint32
}

// PrivHostCheckRet is the host's verdict, one row per thing looked at, in the order to print.
type PrivHostCheckRet struct {
	Items []PrivHostCheckItem `xdr:"256"`
}

// PrivHostCheckItem is one thing looked at on the host.
type PrivHostCheckItem struct {
	Name    string // what was looked at: "kvm", "guest boot", "vhost-net", ...
	Verdict string // "pass", "warn" or "fail"
	Detail  string // what was found
	Remedy  string // what to do about it; empty when nothing
}

var privateProcs = append(append(privateBridgeProcs, privateDeviceProcs...), []Procedure{
	{
		Number: PrivProcHostCheck, Name: "HOST_CHECK", API: "virtdHostCheck", ReadOnly: true,
		Args: typeOf[PrivHostCheckArgs](), Ret: typeOf[PrivHostCheckRet](),
	},
}...)
