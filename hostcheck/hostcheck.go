package hostcheck

import (
	"context"
	"io/fs"
	"os"

	"virtd/network/firewall"
)

// Status is the outcome of one check.
type Status string

// Outcomes.
const (
	Pass Status = "pass"
	Warn Status = "warn" // guests run, with less speed or safety
	Fail Status = "fail" // no guest can run
)

// Finding is one thing that was looked at.
type Finding struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what the administrator can do
}

// Report is everything that was found.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Linux reports whether guests that run Linux can start on this host.
func (r Report) Linux() bool {
	for _, f := range r.Findings {
		if f.Status == Fail {
			return false
		}
	}
	return true
}

// Host is what the checks look at.
type Host struct {
	Root      fs.FS                                    // the file system's root
	Open      func(path string) error                  // opens a device to read and write, and closes it
	Probe     func(ctx context.Context) (Probe, error) // runs the probe guest
	Group     func(path string) string                 // name of a file's group, or empty
	Call      func(name string) error                  // tries a kernel feature: io_uring, landlock, seccomp, userns
	Obstacles func() ([]string, error)                 // packet filters that are in the way of virtual networks
}

// Probe is the verdict of the probe guest.
type Probe struct {
	Linux  bool   `json:"linux"`  // a Linux kernel can run
	Reason string `json:"reason"` // why not, or how it was told
}

// Run looks at everything. It takes as long as the probe guest, well under a second.
func Run(ctx context.Context, h Host) Report {
	var r Report
	kvm := checkKVM(h)
	r.Findings = append(r.Findings, checkCPU(h), kvm)
	if kvm.Status != Fail {
		r.Findings = append(r.Findings, checkProbe(ctx, h))
	}
	r.Findings = append(r.Findings, checkDevice(h, "vhost-net", "/dev/vhost-net", "vhost_net",
		"interfaces with <driver name='vhost'/> cannot start; others use the userspace back end"),
		checkDevice(h, "tun", "/dev/net/tun", "tun", "interfaces with a tap cannot start"),
		checkHugePages(h), checkCgroup(h), checkPacketFilter(h), checkLegacyRules(h), checkForwarding(h), checkReversePath(h),
		checkBridgeFilter(h), checkNetworkModules(h), checkIOMMU(h), checkVFIO(h), checkIOMMUFD(h))
	for _, c := range kernelFeatures {
		r.Findings = append(r.Findings, checkFeature(h, c))
	}
	return r
}

// obstacles are the packet filters that are in the way of virtual networks here.
func obstacles() ([]string, error) {
	list, err := firewall.Obstacles()
	var out []string
	for _, o := range list {
		out = append(out, o.String())
	}
	return out, err
}

// Local is the host that this process runs on. probe runs the probe guest.
func Local(probe func(context.Context) (Probe, error)) Host {
	return Host{Root: os.DirFS("/"), Open: openDevice, Probe: probe, Group: fileGroup, Call: tryFeature, Obstacles: obstacles}
}
