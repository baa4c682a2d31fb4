package portconf

import (
	"fmt"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Function is where a PCI function is on the host.
type Function struct {
	Domain uint16
	Bus    uint8
	Slot   uint8 // to 31
	Number uint8 // to 7
}

// String is the address as sysfs writes it: 0000:01:00.0.
func (f Function) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", f.Domain, f.Bus, f.Slot, f.Number)
}

// ParseFunction reads what String writes.
func ParseFunction(text string) (f Function, err error) {
	if _, err := fmt.Sscanf(text, "%04x:%02x:%02x.%x", &f.Domain, &f.Bus, &f.Slot, &f.Number); err != nil || f.String() != text || f.Slot > 31 || f.Number > 7 {
		return Function{}, fmt.Errorf("'%s' is not a PCI address like 0000:01:00.0", text)
	}
	return f, nil
}

// ReadFunction reads the attributes of an <address>. Those that are missing are 0.
func ReadFunction(n *xmltree.Node) (Function, error) {
	var parts [4]uint64
	for i, f := range []struct {
		attr  string
		limit uint64
	}{{"domain", 0xffff}, {"bus", 0xff}, {"slot", 0x1f}, {"function", 7}} {
		text, ok := n.LookupAttr(f.attr)
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(strings.TrimSpace(text), 0, 32)
		if err != nil {
			return Function{}, n.Errorf(virterr.XMLError, "PCI address: cannot read %s='%s'", f.attr, text)
		}
		if v > f.limit {
			return Function{}, n.Errorf(virterr.XMLError, "Invalid PCI address %s='%s', must be <= 0x%x", f.attr, text, f.limit)
		}
		parts[i] = v
	}
	return Function{uint16(parts[0]), uint8(parts[1]), uint8(parts[2]), uint8(parts[3])}, nil
}

// Write sets the attributes of an <address> as libvirt prints them.
func (f Function) Write(n *xmltree.Node) {
	for _, a := range [][2]string{{"domain", fmt.Sprintf("0x%04x", f.Domain)}, {"bus", fmt.Sprintf("0x%02x", f.Bus)},
		{"slot", fmt.Sprintf("0x%02x", f.Slot)}, {"function", fmt.Sprintf("0x%x", f.Number)}} {
		n.SetAttr(a[0], a[1])
	}
}

// SingleTag returns the VLAN of a virtual function, 0 for none: its card takes one and shows no tags to the guest.
func (v VLAN) SingleTag() (uint16, error) {
	switch {
	case !v.Given():
		return 0, nil
	case v.Trunk || len(v.Tags) != 1:
		return 0, virterr.New(virterr.ConfigUnsupported, "vlan trunking is not supported by SR-IOV network devices: <vlan> needs one <tag id=''/>")
	}
	return v.Tags[0], nil
}
