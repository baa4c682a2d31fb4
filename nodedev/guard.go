package nodedev

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"virtd/virterr"
)

// guard refuses a function that the host cannot do without: each reason is one that an administrator would regret.
func (h *Hostdevs) guard(a Address, dev string) error {
	var reasons []string
	for _, name := range h.below("class/net", dev) {
		reasons = append(reasons, h.netUse(name)...)
	}
	disks := h.disks(dev)
	reasons = append(reasons, h.mounts(disks)...)
	if n := len(h.virtualFunctions(dev)); n > 0 {
		reasons = append(reasons, fmt.Sprintf("it has %d virtual functions, which would go (vctl sriov remove %s)", n, a))
	}
	if len(reasons) == 0 {
		return nil
	}
	return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationInvalid, "PCI device %s is in use by the host: %s; change that first, or use vctl nodedev detach --force",
		a, strings.Join(reasons, "; "))
}

// below are the names in a class of what belongs to a device.
func (h *Hostdevs) below(class, dev string) []string {
	var out []string
	for _, name := range h.list(class) {
		if at, err := h.resolve(class + "/" + name); err == nil && strings.HasPrefix(at, dev+"/") {
			out = append(out, name)
		}
	}
	return out
}

// nvmePath is one path to an NVMe namespace, which has its own place in the tree where the kernel does multipath.
var nvmePath = regexp.MustCompile(`^(nvme\d+)c\d+(n\d+)$`)

// disks are the disks and partitions of a device.
func (h *Hostdevs) disks(dev string) []string {
	out := h.below("class/block", dev)
	for _, entry := range h.list(dev + "/nvme") {
		for _, name := range h.list(dev + "/nvme/" + entry) {
			m := nvmePath.FindStringSubmatch(name)
			if m == nil {
				continue
			}
			head, err := h.resolve("class/block/" + m[1] + m[2])
			if err == nil {
				out = append(append(out, m[1]+m[2]), h.below("class/block", head)...)
			}
		}
	}
	return out
}

// netUse tells what an interface does for the host.
func (h *Hostdevs) netUse(name string) (reasons []string) {
	dir := "class/net/" + name
	if master := h.link(dir, "master"); master != "" {
		kind := "an interface"
		switch {
		case h.exists("class/net/"+master, "bridge"):
			kind = "bridge"
		case h.exists("class/net/"+master, "bonding"):
			kind = "bond"
		}
		reasons = append(reasons, fmt.Sprintf("interface %s is a member of %s %s", name, kind, master))
	}
	routes := h.defaultRoutes()
	if routes[name] {
		reasons = append(reasons, fmt.Sprintf("interface %s has the default route", name))
	}
	for _, entry := range h.list(dir) { // VLANs, macvlans, bridges and bonds on it
		if upper, ok := strings.CutPrefix(entry, "upper_"); ok && routes[upper] {
			reasons = append(reasons, fmt.Sprintf("interface %s carries %s, which has the default route", name, upper))
		}
	}
	return reasons
}

// defaultRoutes are the interfaces that lead everywhere.
func (h *Hostdevs) defaultRoutes() map[string]bool {
	out := map[string]bool{}
	if text, err := os.ReadFile(filepath.Join(h.proc, "net/route")); err == nil {
		for line := range strings.Lines(string(text)) { // Iface Destination Gateway Flags RefCnt Use Metric Mask ...
			if f := strings.Fields(line); len(f) >= 8 && f[1] == "00000000" && f[7] == "00000000" {
				out[f[0]] = true
			}
		}
	}
	if text, err := os.ReadFile(filepath.Join(h.proc, "net/ipv6_route")); err == nil {
		for line := range strings.Lines(string(text)) { // destination, its length, source, its length, next hop, ..., interface
			if f := strings.Fields(line); len(f) >= 10 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
				out[f[9]] = true
			}
		}
	}
	return out
}

// mounts tells which of some disks hold file systems or swap that are in use.
func (h *Hostdevs) mounts(disks []string) (reasons []string) {
	if len(disks) == 0 {
		return nil
	}
	ours := map[string]string{} // by device number and by name in /dev
	for _, name := range disks {
		h.claimNames(ours, name, name, 0)
	}
	if text, err := os.ReadFile(filepath.Join(h.proc, "self/mountinfo")); err == nil {
		for line := range strings.Lines(string(text)) { // id parent major:minor root mount-point options ... - type source options
			before, after, _ := strings.Cut(line, " - ")
			f, source := strings.Fields(before), strings.Fields(after)
			if len(f) < 5 || len(source) < 2 {
				continue
			}
			name, ok := ours[f[2]]
			if !ok { // btrfs and others have numbers of their own
				name, ok = ours[source[1]]
			}
			if ok {
				reasons = append(reasons, fmt.Sprintf("disk %s holds the file system at %s", name, f[4]))
			}
		}
	}
	if text, err := os.ReadFile(filepath.Join(h.proc, "swaps")); err == nil {
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 0 && ours[f[0]] != "" {
				reasons = append(reasons, fmt.Sprintf("disk %s holds swap space", ours[f[0]]))
			}
		}
	}
	return reasons
}

// claimNames notes a disk and what is built on it: partitions are in the list already, device mapper and md hold it. depth
// bounds a stack that sysfs could not have.
func (h *Hostdevs) claimNames(ours map[string]string, name, disk string, depth int) {
	if depth > 8 {
		return
	}
	dir := "class/block/" + name
	ours["/dev/"+name] = disk
	if number := h.attr(dir, "dev"); number != "" {
		ours[number] = disk
	}
	if dm := h.attr(dir, "dm/name"); dm != "" {
		ours["/dev/mapper/"+dm] = disk
	}
	for _, holder := range h.list(dir + "/holders") {
		h.claimNames(ours, holder, disk, depth+1)
	}
}
