package hostcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// checkDevice looks at a device node that a module makes.
func checkDevice(h Host, name, path, module, without string) Finding {
	err := h.Open(path)
	switch {
	case err == nil:
		return Finding{name, Pass, path + " opens", ""}
	case errors.Is(err, fs.ErrPermission):
		return Finding{name, Warn, fmt.Sprintf("no permission for %s: %s", path, without), "run virtd as root"}
	}
	return Finding{name, Warn, fmt.Sprintf("%s: %v: %s", path, err, without), "modprobe " + module}
}

// checkHugePages says how guest memory gets large pages.
func checkHugePages(h Host) Finding {
	const file = "sys/kernel/mm/transparent_hugepage/enabled"
	data, err := fs.ReadFile(h.Root, file)
	if err != nil {
		return Finding{"transparent-hugepages", Warn, "not in this kernel: guests use 4 KiB pages", "build the kernel with CONFIG_TRANSPARENT_HUGEPAGE"}
	}
	if strings.Contains(string(data), "[never]") {
		return Finding{"transparent-hugepages", Warn, "disabled: guests use 4 KiB pages", "echo madvise > /" + file}
	}
	return Finding{"transparent-hugepages", Pass, strings.TrimSpace(string(data)), ""}
}

// checkCgroup looks for cgroup v2 and the controllers that engines are put under.
func checkCgroup(h Host) Finding {
	data, err := fs.ReadFile(h.Root, "sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return Finding{"cgroup", Warn, "no unified cgroup v2 hierarchy at /sys/fs/cgroup: engines get no cgroup of their own, and an engine killed for memory is reported as crashed",
			"boot with systemd.unified_cgroup_hierarchy=1"}
	}
	have := strings.Fields(string(data))
	var missing []string
	for _, want := range []string{"cpu", "memory", "pids"} {
		found := false
		for _, c := range have {
			found = found || c == want
		}
		if !found {
			missing = append(missing, want)
		}
	}
	if len(missing) > 0 {
		return Finding{"cgroup", Warn, "cgroup v2 without the controllers " + strings.Join(missing, ", "), "enable them in /sys/fs/cgroup/cgroup.subtree_control"}
	}
	return Finding{"cgroup", Pass, "cgroup v2: " + strings.Join(have, " "), ""}
}

// feature is a kernel feature that is tried.
type feature struct{ name, without, fix string }

var kernelFeatures = []feature{
	{"io_uring", "disks use a pool of threads", "sysctl kernel.io_uring_disabled=0, or a kernel with CONFIG_IO_URING"},
	{"landlock", "engines are confined by seccomp, uid and namespaces only", "boot with landlock in the lsm= list"},
	{"seccomp", "engines can make any system call", "a kernel with CONFIG_SECCOMP_FILTER"},
}

func checkFeature(h Host, f feature) Finding {
	if err := h.Call(f.name); err != nil {
		return Finding{f.name, Warn, fmt.Sprintf("%v: %s", err, f.without), f.fix}
	}
	return Finding{f.name, Pass, "available", ""}
}

// checkPacketFilter looks for filters that will drop the packets of guests on virtual networks.
func checkPacketFilter(h Host) Finding {
	const name = "packet-filter"
	list, err := h.Obstacles()
	if err != nil {
		return Finding{name, Warn, fmt.Sprintf("%v: virtual networks of other modes than bridge cannot start", err), "modprobe nf_tables, and run virtd as root"}
	}
	if len(list) > 0 {
		return Finding{name, Warn, strings.Join(list, "; "), "make the rules that are named, with the tool that the filter belongs to, so that they last"}
	}
	return Finding{name, Pass, "nothing is in the way of virtual networks", ""}
}
