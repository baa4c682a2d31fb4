package nodeinfo

import (
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strconv"
	"strings"
)

// Node reads one host's facts. Each method reads afresh: processors and memory come and go.
type Node struct {
	FS fs.FS // the root directory
	// Write changes a file of the root directory, for what the kernel takes settings by. It is nil where nothing may be changed.
	Write func(name, text string) error
}

// Local is the host this process runs on.
func Local() *Node {
	return &Node{FS: os.DirFS("/"), Write: func(name, text string) error { return os.WriteFile("/"+name, []byte(text), 0) }}
}

const (
	cpuDir  = "sys/devices/system/cpu"
	nodeDir = "sys/devices/system/node"
)

// CPU is one logical processor.
type CPU struct {
	ID       int
	Online   bool
	Socket   int // physical package
	Die      int
	Cluster  int
	Core     int
	Siblings []int // logical processors of the same core, this one included
}

// Cell is one NUMA node.
type Cell struct {
	ID        int
	Memory    uint64 // KiB
	Free      uint64 // KiB
	CPUs      []CPU
	Distances map[int]int // to other cells, 10 is local; empty where the kernel does not tell
}

// read returns a file's text without surrounding space, "" when it cannot be read.
func (n *Node) read(name string) string {
	b, err := fs.ReadFile(n.FS, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// IOMMU reports whether the host's devices are in IOMMU groups, so that a guest's device can be kept to the guest's memory.
func (n *Node) IOMMU() bool {
	groups, err := fs.ReadDir(n.FS, "sys/kernel/iommu_groups")
	return err == nil && len(groups) > 0
}

func (n *Node) number(name string, otherwise int) int {
	if v, err := strconv.Atoi(n.read(name)); err == nil {
		return v
	}
	return otherwise
}

// CPUs returns the processors that are present, by number.
func (n *Node) CPUs() ([]CPU, error) {
	present, err := ParseList(n.read(cpuDir + "/present"))
	if err != nil || len(present) == 0 {
		return nil, fmt.Errorf("read which processors the host has from /%s/present: %v", cpuDir, err)
	}
	online := map[int]bool{}
	list, err := ParseList(n.read(cpuDir + "/online"))
	if err != nil || len(list) == 0 {
		list = present
	}
	for _, id := range list {
		online[id] = true
	}
	cpus := make([]CPU, len(present))
	for i, id := range present {
		cpus[i] = n.cpu(id, online[id])
	}
	return cpus, nil
}

// cpu reads the place of one processor. The kernel has no topology for those that are offline.
func (n *Node) cpu(id int, online bool) CPU {
	c := CPU{ID: id, Online: online, Siblings: []int{id}}
	if !online {
		return c
	}
	dir := fmt.Sprintf("%s/cpu%d/topology/", cpuDir, id)
	c.Socket = max(n.number(dir+"physical_package_id", 0), 0)
	c.Die = max(n.number(dir+"die_id", 0), 0)
	c.Cluster = max(n.number(dir+"cluster_id", 0), 0)
	c.Core = max(n.number(dir+"core_id", id), 0)
	if s, err := ParseList(n.read(dir + "thread_siblings_list")); err == nil && len(s) > 0 {
		c.Siblings = s
	}
	return c
}

// Cells returns the NUMA nodes by number; a host without NUMA is one cell.
func (n *Node) Cells() ([]Cell, error) {
	cpus, err := n.CPUs()
	if err != nil {
		return nil, err
	}
	ids, err := ParseList(n.read(nodeDir + "/online"))
	if err != nil || len(ids) == 0 {
		return n.oneCell(cpus)
	}
	cells := make([]Cell, 0, len(ids))
	for _, id := range ids {
		dir := fmt.Sprintf("%s/node%d/", nodeDir, id)
		cell := Cell{ID: id, Distances: distances(ids, n.read(dir+"distance"))}
		info := meminfo(n.read(dir + "meminfo"))
		cell.Memory, cell.Free = info["MemTotal"], info["MemFree"]
		in, err := ParseList(n.read(dir + "cpulist"))
		if err != nil {
			return nil, fmt.Errorf("read the processors of NUMA node %d: %w", id, err)
		}
		cell.CPUs = pick(cpus, in)
		cells = append(cells, cell)
	}
	return cells, nil
}

func (n *Node) oneCell(cpus []CPU) ([]Cell, error) {
	mem, err := n.Memory()
	if err != nil {
		return nil, err
	}
	return []Cell{{Memory: mem["MemTotal"], Free: mem["MemFree"], CPUs: cpus}}, nil
}

func pick(cpus []CPU, ids []int) []CPU {
	var out []CPU
	for _, c := range cpus {
		if i := sort.SearchInts(ids, c.ID); i < len(ids) && ids[i] == c.ID {
			out = append(out, c)
		}
	}
	return out
}

func distances(ids []int, text string) map[int]int {
	fields := strings.Fields(text)
	if len(fields) != len(ids) {
		return nil
	}
	d := map[int]int{}
	for i, f := range fields {
		if v, err := strconv.Atoi(f); err == nil {
			d[ids[i]] = v
		}
	}
	return d
}

// Summary counts processors as libvirt's node info does.
type Summary struct {
	Model                          string // of the architecture: x86_64
	Memory                         uint64 // KiB
	CPUs, MHz                      int    // online processors, their speed
	Nodes, Sockets, Cores, Threads int    // sockets of a node, cores of a socket, threads of a core
}

// Summary returns the counts. Where the topology is not the same all over, it is described as one socket of as many cores
// as there are processors, so that the product is always right.
func (n *Node) Summary() (Summary, error) {
	cells, err := n.Cells()
	if err != nil {
		return Summary{}, err
	}
	s := Summary{Model: "x86_64", MHz: n.mhz(), Nodes: len(cells)}
	for _, cell := range cells {
		s.Memory += cell.Memory
		sockets := map[int]map[[3]int]int{} // threads by core by socket
		for _, c := range cell.CPUs {
			if !c.Online {
				continue
			}
			s.CPUs++
			if sockets[c.Socket] == nil {
				sockets[c.Socket] = map[[3]int]int{}
			}
			cores := sockets[c.Socket]
			cores[[3]int{c.Die, c.Cluster, c.Core}]++
			s.Cores = max(s.Cores, len(cores))
			s.Threads = max(s.Threads, cores[[3]int{c.Die, c.Cluster, c.Core}])
		}
		s.Sockets = max(s.Sockets, len(sockets))
	}
	if s.Nodes*s.Sockets*s.Cores*s.Threads != s.CPUs {
		s.Nodes, s.Sockets, s.Cores, s.Threads = 1, 1, s.CPUs, 1
	}
	return s, nil
}

func (n *Node) mhz() int {
	for _, line := range strings.Split(n.read("proc/cpuinfo"), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "cpu MHz" {
			f, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return int(f)
		}
	}
	return 0
}

// CPUInfo returns what the kernel says of the first processor: vendor_id, model name, flags and so on.
func (n *Node) CPUInfo() map[string]string {
	info := map[string]string{}
	for _, line := range strings.Split(n.read("proc/cpuinfo"), "\n") {
		k, v, ok := strings.Cut(line, ":")
		if !ok {
			break // the blank line after the first processor
		}
		info[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	return info
}

// ParseList parses the kernel's list of numbers, such as 0-3,8.
func ParseList(text string) ([]int, error) {
	const most = 1 << 16
	var out []int
	if text == "" {
		return nil, nil
	}
	for _, part := range strings.Split(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			return nil, err
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(to); err != nil {
				return nil, err
			}
		}
		if a < 0 || b < a || b-a+len(out) > most {
			return nil, fmt.Errorf("%q is not a list of numbers", text)
		}
		for ; a <= b; a++ {
			out = append(out, a)
		}
	}
	sort.Ints(out)
	return out, nil
}
