package hypervisor

// Machine types. Everything a guest sees is a pure function of them and of the rest of Config (design decision 6). The
// newest of each board, then those that guests were defined or saved with before.
const (
	MachineQ35 = "pc-q35-virtd-1.1"
	MachinePC  = "pc-i440fx-virtd-1.1"

	MachineQ35V10 = "pc-q35-virtd-1.0"
	MachinePCV10  = "pc-i440fx-virtd-1.0"
)

// machineType is how the types differ.
type machineType struct {
	q35 bool
	// cpuHotplug: since 1.1, processors come and go while the guest runs.
	cpuHotplug bool
	// largeBARs: since 1.1, the 64-bit window of PCI is a quarter of the address space, and root ports share half of it, so that
	// devices with large BARs can come to them.
	largeBARs bool
}

var machineTypes = map[string]machineType{
	MachineQ35: {q35: true, cpuHotplug: true, largeBARs: true}, MachinePC: {cpuHotplug: true, largeBARs: true},
	MachineQ35V10: {q35: true}, MachinePCV10: {},
}

// PlugsCPUs reports whether vCPUs of a machine of that type can come and go while its guest runs.
func PlugsCPUs(machine string) bool { return machineTypes[machine].cpuHotplug }
