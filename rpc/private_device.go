package rpc

// Flags of PrivDeviceDetachArgs.
const (
	PrivDetachGroup = 1 // every function of the IOMMU group
	PrivDetachForce = 2 // although the host uses the device
)

// PrivDeviceDetachArgs names a device as virNodeDeviceDetachFlags does.
type PrivDeviceDetachArgs struct {
	Name   string
	Driver string // that it gets; "" is vfio-pci
	Flags  uint32
}

// PrivFunctionListArgs asks for all cards. Flags must be 0.
type PrivFunctionListArgs struct {
	Flags uint32
}

// PrivFunctionListRet has one row per card.
type PrivFunctionListRet struct {
	Cards []PrivCard `xdr:"1024"`
}

// PrivCard is a physical function.
type PrivCard struct {
	Address   string // 0000:01:00.0
	Interface string
	Driver    string
	Total     uint32         // virtual functions it can have
	Kept      uint32         // 1: made again after each boot
	Functions []PrivFunction `xdr:"1024"`
}

// PrivFunction is a virtual function.
type PrivFunction struct {
	Address   string
	Number    uint32
	Interface string
	Driver    string
	Domain    string        // that has it, or ""
	Settings  []PrivSetting `xdr:"16"`
}

// PrivSetting is one thing that a card does for a virtual function: mac, vlan, qos, trust, spoofchk, link-state or max-rate,
// with its value as a person writes it.
type PrivSetting struct {
	Name  string
	Value string
}

// Flags of PrivFunctionCountArgs.
const (
	PrivKeepFunctions       = 1 // again after each boot
	PrivDriverlessFunctions = 2 // no driver of the host gets them
)

// PrivFunctionCountArgs names a card by address, interface or node device.
type PrivFunctionCountArgs struct {
	Card  string
	Count uint32
	Flags uint32
}

// PrivFunctionSetArgs names a virtual function likewise. Flags must be 0.
type PrivFunctionSetArgs struct {
	Function string
	Settings []PrivSetting `xdr:"16"`
	Flags    uint32
}

var privateDeviceProcs = []Procedure{
	{
		Number: PrivProcDeviceDetach, Name: "DEVICE_DETACH", API: "virtdDeviceDetach",
		Args: typeOf[PrivDeviceDetachArgs](),
	},
	{
		Number: PrivProcFunctionList, Name: "FUNCTION_LIST", API: "virtdFunctionList", ReadOnly: true,
		Args: typeOf[PrivFunctionListArgs](), Ret: typeOf[PrivFunctionListRet](),
	},
	{
		Number: PrivProcFunctionCount, Name: "FUNCTION_COUNT", API: "virtdFunctionCount",
		Args: typeOf[PrivFunctionCountArgs](),
	},
	{
		Number: PrivProcFunctionSet, Name: "FUNCTION_SET", API: "virtdFunctionSet",
		Args: typeOf[PrivFunctionSetArgs](),
	},
}
