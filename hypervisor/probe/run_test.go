package probe

import (
	"context"
	"os"
	"strings"
	"testing"

	"virtd/hypervisor/kvm"
)

// TestVerdict runs the probe guest on this machine's KVM. The lab's is a hardware one as far as a guest can tell, so
// there the verdict must be yes; elsewhere the test checks that the verdict is reached and explained.
func TestVerdict(t *testing.T) {
	sys, err := kvm.Open()
	if err != nil {
		t.Skipf("needs /dev/kvm: %v", err)
	}
	defer sys.Close()
	v, err := Run(context.Background(), sys)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", v)
	if v.Reason == "" {
		t.Error("no reason given")
	}
	if os.Getenv("VIRTD_LAB") != "" && !v.Linux {
		t.Errorf("the lab's KVM runs Linux, the probe says: %s", v.Reason)
	}
	if !v.Linux && !strings.Contains(v.Reason, "privilege level 0") {
		t.Errorf("reason %q does not name what failed", v.Reason)
	}
}
