package hostcheck

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// healthy is a host on which nothing is amiss.
func healthy() Host {
	return Host{
		Root: fstest.MapFS{
			"proc/cpuinfo": {Data: []byte("processor : 0\nflags : fpu svm nx\n")},
			"sys/kernel/mm/transparent_hugepage/enabled": {Data: []byte("always [madvise] never\n")},
			"sys/fs/cgroup/cgroup.controllers":           {Data: []byte("cpuset cpu io memory pids\n")},
			"sys/kernel/iommu_groups/0/devices/0":        {},
			"sys/bus/pci/drivers/vfio-pci/bind":          {},
		},
		Open:      func(string) error { return nil },
		Probe:     func(context.Context) (Probe, error) { return Probe{true, "ran"}, nil },
		Group:     func(string) string { return "kvm" },
		Call:      func(string) error { return nil },
		Obstacles: func() ([]string, error) { return nil, nil },
	}
}

func denied(path string, err error) func(string) error {
	return func(p string) error {
		if p == path {
			return &fs.PathError{Op: "open", Path: p, Err: err}
		}
		return nil
	}
}

func put(h *Host, path, text string) {
	h.Root.(fstest.MapFS)[path] = &fstest.MapFile{Data: []byte(text)}
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Host)
		check  string // the finding that is not a pass
		status Status
		says   string // in its detail or fix
		linux  bool
	}{
		{"healthy", func(*Host) {}, "", "", "", true},
		{"kvm permission", func(h *Host) { h.Open = denied("/dev/kvm", fs.ErrPermission) }, "kvm", Fail, "usermod -aG kvm", false},
		{"kvm missing", func(h *Host) { h.Open = denied("/dev/kvm", fs.ErrNotExist) }, "kvm", Fail, "modprobe kvm_amd", false},
		{"no linux", func(h *Host) {
			h.Probe = func(context.Context) (Probe, error) { return Probe{false, "iretq is emulated"}, nil }
		}, "linux-guest", Fail, "iretq is emulated", false},
		{"probe fails", func(h *Host) {
			h.Probe = func(context.Context) (Probe, error) { return Probe{}, errors.New("exit status 2") }
		}, "linux-guest", Fail, "exit status 2", false},
		{"no vhost", func(h *Host) { h.Open = denied("/dev/vhost-net", fs.ErrNotExist) }, "vhost-net", Warn, "modprobe vhost_net", true},
		{"no cgroup2", func(h *Host) { delete(h.Root.(fstest.MapFS), "sys/fs/cgroup/cgroup.controllers") }, "cgroup", Warn, "unified", true},
		{"no memory controller", func(h *Host) {
			h.Root.(fstest.MapFS)["sys/fs/cgroup/cgroup.controllers"].Data = []byte("cpu pids")
		}, "cgroup", Warn, "memory", true},
		{"no thp", func(h *Host) {
			h.Root.(fstest.MapFS)["sys/kernel/mm/transparent_hugepage/enabled"].Data = []byte("always madvise [never]")
		}, "transparent-hugepages", Warn, "echo madvise", true},
		{"docker", func(h *Host) {
			h.Obstacles = func() ([]string, error) { return []string{"chain FORWARD of table ip filter drops"}, nil }
		}, "packet-filter", Warn, "chain FORWARD of table ip filter drops", true},
		{"no nftables", func(h *Host) {
			h.Obstacles = func() ([]string, error) { return nil, errors.New("Unable to list the chains") }
		}, "packet-filter", Warn, "modprobe nf_tables", true},
		{"old rules", func(h *Host) { put(h, "proc/net/ip_tables_names", "nat\nfilter\n") }, "iptables-legacy", Warn, "filter, nat", true},
		{"strict sources", func(h *Host) { put(h, "proc/sys/net/ipv4/conf/all/rp_filter", "1\n") }, "rp-filter", Warn, "rp_filter=2", true},
		{"bridge-nf", func(h *Host) { put(h, "proc/sys/net/bridge/bridge-nf-call-iptables", "1\n") }, "bridge-nf", Warn, "bridge-nf-call-iptables=0", true},
		{"no forwarding", func(h *Host) {
			put(h, "proc/sys/net/ipv4/ip_forward", "0\n")
			put(h, "proc/sys/net/ipv6/conf/all/forwarding", "1\n")
		}, "", "", "", true},
		{"no police", func(h *Host) {
			put(h, "proc/sys/kernel/osrelease", "6.1.0\n")
			put(h, "lib/modules/6.1.0/modules.builtin", "kernel/net/bridge/bridge.ko\nkernel/net/netfilter/nf_tables.ko\nkernel/net/sched/sch_ingress.ko\n")
			put(h, "lib/modules/6.1.0/modules.dep", "kernel/drivers/net/tun.ko.xz:\nkernel/drivers/vhost/vhost_net.ko: kernel/drivers/vhost/vhost.ko\n"+
				"kernel/net/sched/sch_htb.ko:\nkernel/net/sched/cls_u32.ko:\n")
		}, "network-modules", Warn, "kernel 6.1.0 has no act_police: no outbound bandwidth", true},
		{"no IOMMU", func(h *Host) { delete(h.Root.(fstest.MapFS), "sys/kernel/iommu_groups/0/devices/0") }, "iommu", Warn, "intel_iommu=on", true},
		{"no vfio-pci", func(h *Host) { delete(h.Root.(fstest.MapFS), "sys/bus/pci/drivers/vfio-pci/bind") }, "vfio-pci", Warn, "CONFIG_VFIO_PCI", true},
		{"io_uring off", func(h *Host) {
			h.Call = func(n string) error {
				if n == "io_uring" {
					return errors.New("operation not permitted")
				}
				return nil
			}
		}, "io_uring", Warn, "io_uring_disabled", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthy()
			c.change(&h)
			r := Run(context.Background(), h)
			var odd []string
			for _, f := range r.Findings {
				if f.Status == Pass {
					continue
				}
				odd = append(odd, f.Name)
				if f.Status != c.status || !strings.Contains(f.Detail+f.Fix, c.says) {
					t.Errorf("finding %+v, want status %s and %q", f, c.status, c.says)
				}
			}
			var want []string
			if c.check != "" {
				want = []string{c.check}
			}
			if diff := cmp.Diff(want, odd); diff != "" {
				t.Errorf("findings that are not a pass:\n%s", diff)
			}
			if r.Linux() != c.linux {
				t.Errorf("Linux() = %v", r.Linux())
			}
		})
	}
}

// What there is of iommufd is told, and amiss is none of it.
func TestIOMMUFD(t *testing.T) {
	for want, files := range map[string][]string{
		"the kernel does not have it": nil,
		"/dev/iommu is there":         {"dev/iommu"},
		"not loaded":                  {"lib/modules/6.12.1/kernel/drivers/iommu/iommufd/iommufd.ko"},
	} {
		h := healthy()
		put(&h, "proc/sys/kernel/osrelease", "6.12.1\n")
		for _, f := range files {
			put(&h, f, "")
		}
		for _, f := range Run(context.Background(), h).Findings {
			if f.Name == "iommufd" && (f.Status != Pass || !strings.Contains(f.Detail, want)) {
				t.Errorf("finding %+v, want %q", f, want)
			}
		}
	}
}

func TestTryFeatureKnowsItsFeatures(t *testing.T) {
	for _, f := range kernelFeatures {
		if err := tryFeature(f.name); err != nil && strings.Contains(err.Error(), "no check") {
			t.Error(err)
		}
	}
}
