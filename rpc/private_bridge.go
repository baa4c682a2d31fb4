package rpc

// PrivBridgeListArgs asks for the host's bridges. Flags must be 0.
type PrivBridgeListArgs struct {
	Flags uint32
}

// PrivBridgeListRet has one row per bridge.
type PrivBridgeListRet struct {
	Bridges []PrivBridge `xdr:"4096"`
}

// Flags of a bridge, and of PrivBridgeCreateArgs.
const (
	PrivBridgeUp    = 1
	PrivBridgeSTP   = 2 // it speaks the spanning tree protocol
	PrivBridgeVLANs = 4 // it filters VLANs
)

// PrivBridge is a bridge of the host.
type PrivBridge struct {
	Name      string
	MAC       string
	MTU       uint32
	Flags     uint32
	Network   string   // that it belongs to, or ""
	Addresses []string `xdr:"256"`
	Ports     []string `xdr:"4096"`
}

// PrivBridgeCreateArgs describes a bridge.
type PrivBridgeCreateArgs struct {
	Name  string
	MTU   uint32 // 0 is the kernel's
	Flags uint32
}

// PrivBridgeDeleteArgs names a bridge. Flags must be 0.
type PrivBridgeDeleteArgs struct {
	Name  string
	Flags uint32
}

// PrivRemovePort is a flag of PrivBridgePortArgs: the link ceases to be a port.
const PrivRemovePort = 1

// PrivBridgePortArgs makes a link of the host a port of a bridge.
type PrivBridgePortArgs struct {
	Bridge string
	Port   string
	Wait   uint32 // seconds until a change that moved addresses is taken back
	Flags  uint32
}

// PrivBridgePortRet tells whether addresses moved, so that the change waits for PrivProcBridgeConfirm.
type PrivBridgePortRet struct {
	Waits uint32
}

// PrivBridgeConfirmArgs names the port whose change shall stay. Flags must be 0.
type PrivBridgeConfirmArgs struct {
	Port  string
	Flags uint32
}

// PrivTapListArgs asks for the taps of the host. Flags must be 0.
type PrivTapListArgs struct {
	Flags uint32
}

// PrivTapListRet has one row per tap and macvtap.
type PrivTapListRet struct {
	Taps []PrivTap `xdr:"16384"`
}

// PrivTap is the host's end of a guest's interface, or a tap that somebody else made.
type PrivTap struct {
	Name   string
	Kind   string // tuntap or macvtap
	Bridge string
	MAC    string // of the host's end
	Guest  string // MAC address that the guest has, or ""
	Domain string // or ""
	MTU    uint32
	Up     uint32
}

var privateBridgeProcs = []Procedure{
	{
		Number: PrivProcBridgeList, Name: "BRIDGE_LIST", API: "virtdBridgeList", ReadOnly: true,
		Args: typeOf[PrivBridgeListArgs](), Ret: typeOf[PrivBridgeListRet](),
	},
	{Number: PrivProcBridgeCreate, Name: "BRIDGE_CREATE", API: "virtdBridgeCreate", Args: typeOf[PrivBridgeCreateArgs]()},
	{Number: PrivProcBridgeDelete, Name: "BRIDGE_DELETE", API: "virtdBridgeDelete", Args: typeOf[PrivBridgeDeleteArgs]()},
	{
		Number: PrivProcBridgePort, Name: "BRIDGE_PORT", API: "virtdBridgePort",
		Args: typeOf[PrivBridgePortArgs](), Ret: typeOf[PrivBridgePortRet](),
	},
	{Number: PrivProcBridgeConfirm, Name: "BRIDGE_CONFIRM", API: "virtdBridgeConfirm", Args: typeOf[PrivBridgeConfirmArgs]()},
	{
		Number: PrivProcTapList, Name: "TAP_LIST", API: "virtdTapList", ReadOnly: true,
		Args: typeOf[PrivTapListArgs](), Ret: typeOf[PrivTapListRet](),
	},
}
