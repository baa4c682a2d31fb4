package domain

import (
	"regexp"
	"strings"
)

// The canonical machine types. Everything the guest sees is a function of the version in them. hypervisor says the same; a
// test of driver/kvm compares.
const (
	MachineQ35 = "pc-q35-virtd-1.1"
	MachinePC  = "pc-i440fx-virtd-1.1"
)

// MachineType is a machine type that domains can have.
type MachineType struct {
	Name string
	Q35  bool // PCI Express; else the pc board
	// PlugsVCPUs: vCPUs can come and go while the guest runs.
	PlugsVCPUs bool
}

// MachineTypes are all of them, of each board the newest first.
var MachineTypes = []MachineType{
	{MachinePC, false, true},
	{"pc-i440fx-virtd-1.0", false, false},
	{MachineQ35, true, true},
	{"pc-q35-virtd-1.0", true, false},
}

// machineType returns the type of that canonical name, the zero value for one that is not ours.
func machineType(name string) MachineType {
	for _, t := range MachineTypes {
		if t.Name == name {
			return t
		}
	}
	return MachineType{}
}

// Machine returns the canonical machine type.
func (d *Definition) Machine() string { return d.doc.Root.Child("os", "type").Attr("machine") }

// IsQ35 reports whether the machine has PCI Express.
func (d *Definition) IsQ35() bool { return machineType(d.Machine()).Q35 }

// canonical machine names of QEMU, whatever the distribution put behind the prefix
var foreignMachine = regexp.MustCompile(`^pc-(q35|i440fx)-[A-Za-z0-9][A-Za-z0-9._-]*$`)

// CanonicalMachine returns the versioned machine type that a name stands for: itself for one of ours, the newest we have
// for q35, pc and QEMU's versioned names. The empty name is pc, as in libvirt.
func CanonicalMachine(name string) (string, bool) {
	switch name {
	case "q35":
		return MachineQ35, true
	case "", "pc":
		return MachinePC, true
	}
	if strings.Contains(name, "-virtd-") {
		return name, machineType(name) != MachineType{}
	}
	m := foreignMachine.FindStringSubmatch(name)
	switch {
	case m == nil:
		return name, false
	case m[1] == "q35":
		return MachineQ35, true
	}
	return MachinePC, true
}
