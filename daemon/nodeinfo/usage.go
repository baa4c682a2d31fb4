package nodeinfo

import (
	"bufio"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Memory returns the host's /proc/meminfo, in KiB.
func (n *Node) Memory() (map[string]uint64, error) {
	m := meminfo(n.read("proc/meminfo"))
	if m["MemTotal"] == 0 {
		return nil, fmt.Errorf("read the host's memory from /proc/meminfo: no MemTotal")
	}
	return m, nil
}

// CellMemory returns the meminfo of one NUMA node, in KiB.
func (n *Node) CellMemory(cell int) (map[string]uint64, error) {
	m := meminfo(n.read(fmt.Sprintf("%s/node%d/meminfo", nodeDir, cell)))
	if m["MemTotal"] == 0 {
		if cell == 0 {
			return n.Memory()
		}
		return nil, fmt.Errorf("read the memory of NUMA node %d: %w", cell, fs.ErrNotExist)
	}
	return m, nil
}

// meminfo parses both forms: "MemTotal: 1 kB" and "Node 0 MemTotal: 1 kB".
func meminfo(text string) map[string]uint64 {
	m := map[string]uint64{}
	for _, line := range strings.Split(text, "\n") {
		key, value, ok := strings.Cut(line, ":")
		fields, names := strings.Fields(value), strings.Fields(key)
		if !ok || len(fields) == 0 || len(names) == 0 {
			continue
		}
		if v, err := strconv.ParseUint(fields[0], 10, 64); err == nil {
			m[names[len(names)-1]] = v
		}
	}
	return m
}

// CPUTimes are nanoseconds since the host booted.
type CPUTimes struct {
	Kernel, User, Idle, IOWait uint64
}

// tick is the length of the kernel's clock tick in /proc/stat: USER_HZ is 100 on x86.
const tick = 10_000_000

// CPUTimes returns the times of one processor, or the sum of all for -1.
func (n *Node) CPUTimes(cpu int) (CPUTimes, error) {
	want := "cpu"
	if cpu >= 0 {
		want = "cpu" + strconv.Itoa(cpu)
	}
	sc := bufio.NewScanner(strings.NewReader(n.read("proc/stat")))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 8 || f[0] != want {
			continue
		}
		v := make([]uint64, 7) // user nice system idle iowait irq softirq
		for i := range v {
			v[i], _ = strconv.ParseUint(f[i+1], 10, 64)
		}
		return CPUTimes{
			User: (v[0] + v[1]) * tick, Kernel: (v[2] + v[5] + v[6]) * tick, Idle: v[3] * tick, IOWait: v[4] * tick,
		}, nil
	}
	return CPUTimes{}, fmt.Errorf("processor %d: %w in /proc/stat", cpu, fs.ErrNotExist)
}

// FreePages returns how many pages of size KiB are free in a cell: of 4 KiB the unused ones, of larger ones the free huge
// pages. It reports false for a size that the host does not have.
func (n *Node) FreePages(cell int, size uint32) (uint64, bool) {
	if size == 4 {
		m, err := n.CellMemory(cell)
		return m["MemFree"] / 4, err == nil
	}
	v, err := strconv.ParseUint(n.read(fmt.Sprintf("%s/free_hugepages", n.hugeDir(cell, size))), 10, 64)
	return v, err == nil
}

// HugePages returns how many huge pages of each size, in KiB, a cell has.
func (n *Node) HugePages(cell int) map[uint32]uint64 {
	sizes := map[uint32]uint64{}
	base := fmt.Sprintf("%s/node%d/hugepages", nodeDir, cell)
	entries, err := fs.ReadDir(n.FS, base)
	if err != nil && cell == 0 {
		base = "sys/kernel/mm/hugepages"
		entries, _ = fs.ReadDir(n.FS, base)
	}
	for _, e := range entries {
		var kib uint32
		if _, err := fmt.Sscanf(e.Name(), "hugepages-%dkB", &kib); err != nil {
			continue
		}
		count, _ := strconv.ParseUint(n.read(base+"/"+e.Name()+"/nr_hugepages"), 10, 64)
		sizes[kib] = count
	}
	return sizes
}

func (n *Node) hugeDir(cell int, size uint32) string {
	dir := fmt.Sprintf("%s/node%d/hugepages/hugepages-%dkB", nodeDir, cell, size)
	if _, err := fs.Stat(n.FS, dir); err != nil && cell == 0 {
		return fmt.Sprintf("sys/kernel/mm/hugepages/hugepages-%dkB", size)
	}
	return dir
}
