package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// checkCPU looks for the processor's virtualization extension.
func checkCPU(h Host) Finding {
	f := Finding{Name: "cpu"}
	data, err := fs.ReadFile(h.Root, "proc/cpuinfo")
	if err != nil {
		return Finding{"cpu", Warn, "cannot read /proc/cpuinfo: " + err.Error(), ""}
	}
	for _, line := range strings.Split(string(data), "\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			switch flag {
			case "vmx":
				return Finding{"cpu", Pass, "Intel VT-x (vmx)", ""}
			case "svm":
				return Finding{"cpu", Pass, "AMD-V (svm)", ""}
			}
		}
	}
	f.Status, f.Detail = Warn, "no hardware virtualization (vmx or svm) in /proc/cpuinfo"
	f.Fix = "enable it in the firmware's setup; on a virtual machine, enable nested virtualization on its host"
	return f
}

// checkKVM looks at /dev/kvm and who may open it.
func checkKVM(h Host) Finding {
	err := h.Open("/dev/kvm")
	switch {
	case err == nil:
		return Finding{"kvm", Pass, "/dev/kvm opens", ""}
	case errors.Is(err, fs.ErrPermission):
		fix := "run virtd as root"
		if g := h.Group("/dev/kvm"); g != "" {
			fix = fmt.Sprintf("add the user that virtd runs as to group '%s' (usermod -aG %s USER)", g, g)
		}
		return Finding{"kvm", Fail, "no permission for /dev/kvm", fix}
	case errors.Is(err, fs.ErrNotExist):
		module := "kvm_intel or kvm_amd"
		switch checkCPU(h).Detail {
		case "Intel VT-x (vmx)":
			module = "kvm_intel"
		case "AMD-V (svm)":
			module = "kvm_amd"
		}
		return Finding{"kvm", Fail, "there is no /dev/kvm", "modprobe " + module}
	}
	return Finding{"kvm", Fail, "/dev/kvm: " + err.Error(), ""}
}

// checkProbe runs a guest that does what a Linux kernel does and emulated KVMs cannot.
func checkProbe(ctx context.Context, h Host) Finding {
	p, err := h.Probe(ctx)
	switch {
	case err != nil:
		return Finding{"linux-guest", Fail, "the probe guest did not run: " + err.Error(), "see the log of virtd"}
	case !p.Linux:
		return Finding{"linux-guest", Fail, "this host's KVM cannot run a Linux guest: " + p.Reason,
			"use a host with hardware virtualization; purpose-built guests still run here"}
	}
	return Finding{"linux-guest", Pass, p.Reason, ""}
}
