package policy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A replaced module is not what go.mod says it is.
func TestModuleReplacesNothing(t *testing.T) {
	mod := read(t, "go.mod")
	if regexp.MustCompile(`(?m)^\s*replace\b`).MatchString(mod) {
		t.Error("go.mod has a replace directive")
	}
	if !strings.HasPrefix(mod, "module virtd\n") {
		t.Error("the module is not called virtd")
	}
}

// Where things are is part of the interface between the people who work here.
func TestFoldersExist(t *testing.T) {
	for _, d := range []string{
		"cmd/virtd", "cmd/vctl", "cmd/virtd-vmm", "domain", "driver", "driver/kvm", "driver/fake", "hypervisor/kvm",
		"hypervisor/memory", "hypervisor/boot", "hypervisor/acpi", "hypervisor/pci", "hypervisor/virtio",
		"hypervisor/chipset", "hypervisor/block", "hypervisor/monitor", "network/bridge", "storage", "rpc", "daemon",
		"xml/testdata", "lab", "bench", "docs",
	} {
		if fi, err := os.Stat(filepath.Join("..", d)); err != nil || !fi.IsDir() {
			t.Errorf("folder %s is missing", d)
		}
	}
}

func TestLicence(t *testing.T) {
	if !strings.Contains(read(t, "LICENSE"), "Apache License") {
		t.Error("LICENSE is not the Apache licence")
	}
}
