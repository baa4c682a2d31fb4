package hypervisor

import (
	"strings"
	"testing"
)

// A machine's functions of the host share one address space: one that would need another is refused.
func TestOneAddressSpace(t *testing.T) {
	for _, c := range []struct {
		iommufd bool
		comes   Hostdev
		says    string
	}{
		{true, Hostdev{Group: "group"}, "the guest's other devices of the host use iommufd, and it does not"},
		{false, Hostdev{Cdev: "cdev"}, "the guest's other devices of the host do not use iommufd, and it does"},
	} {
		m := &Machine{}
		m.devices.hostdevs.iommufd = c.iommufd
		if _, err := m.takeUnit(&c.comes); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("error %v, want %q", err, c.says)
		}
	}
}
