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

var privateDeviceProcs = []Procedure{
	{
		Number: PrivProcDeviceDetach, Name: "DEVICE_DETACH", API: "virtdDeviceDetach",
		Args: typeOf[PrivDeviceDetachArgs](),
	},
}
