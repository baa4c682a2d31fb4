package nodeinfo

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func tree(files map[string]string) *Node {
	fs := fstest.MapFS{}
	for name, text := range files {
		fs[name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	return &Node{FS: fs}
}

func TestSummary(t *testing.T) {
	const cpu = "sys/devices/system/cpu/"
	// A hybrid processor: one core with two threads, one with one.
	hybrid := map[string]string{
		"proc/meminfo": "MemTotal: 1000 kB\nMemFree: 400 kB", cpu + "present": "0-2", cpu + "online": "0-2",
		cpu + "cpu0/topology/core_id": "0", cpu + "cpu0/topology/thread_siblings_list": "0-1",
		cpu + "cpu1/topology/core_id": "0", cpu + "cpu1/topology/thread_siblings_list": "0-1",
		cpu + "cpu2/topology/core_id": "1", cpu + "cpu2/topology/thread_siblings_list": "2",
	}
	plain := map[string]string{"proc/meminfo": "MemTotal: 1000 kB", cpu + "present": "0-3", "proc/cpuinfo": "cpu MHz : 1999.9\n"}
	// Firmware that does not know its packages says -1.
	odd := map[string]string{"proc/meminfo": "MemTotal: 1000 kB", cpu + "present": "0", cpu + "online": "0", cpu + "cpu0/topology/physical_package_id": "-1"}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  Summary
	}{
		{"hybrid", hybrid, Summary{Model: "x86_64", Memory: 1000, CPUs: 3, Nodes: 1, Sockets: 1, Cores: 3, Threads: 1}},
		{"no topology", plain, Summary{Model: "x86_64", Memory: 1000, CPUs: 4, MHz: 1999, Nodes: 1, Sockets: 1, Cores: 4, Threads: 1}},
		{"no package", odd, Summary{Model: "x86_64", Memory: 1000, CPUs: 1, Nodes: 1, Sockets: 1, Cores: 1, Threads: 1}},
	} {
		got, err := tree(tt.files).Summary()
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
	if _, err := tree(nil).Summary(); err == nil {
		t.Error("a host without processors was described")
	}
}

func TestParseList(t *testing.T) {
	for text, want := range map[string][]int{"": nil, "0": {0}, "0-2,5": {0, 1, 2, 5}, "7,3": {3, 7}} {
		if got, err := ParseList(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "1-", "-1", "3-1", "0-99999999", "1,,2"} {
		if got, err := ParseList(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add("0-3,8")
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := ParseList(text); err == nil && len(list) > 1<<17 {
			t.Errorf("%q gives %d numbers", text, len(list))
		}
	})
}

func TestUUID(t *testing.T) {
	firmware := tree(map[string]string{"sys/class/dmi/id/product_uuid": "6b1a2f4e-0000-4000-8000-0123456789ab"}).UUID()
	if firmware.String() != "6b1a2f4e-0000-4000-8000-0123456789ab" {
		t.Error(firmware)
	}
	one := map[string]string{"etc/machine-id": "0123456789abcdef0123456789abcdef", "sys/class/dmi/id/product_uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff"}
	a, b := tree(one).UUID(), tree(map[string]string{"etc/machine-id": "other"}).UUID()
	if a == b || a != tree(one).UUID() || a.Version() != 8 || strings.HasPrefix(a.String(), "01234567") {
		t.Errorf("%s, %s", a, b)
	}
}

func TestUsage(t *testing.T) {
	n := tree(map[string]string{
		"proc/stat":    "cpu  1 2 3 4 5 6 7 8 9 10\ncpu10 1 0 0 0 0 0 0 0 0 0\ncpu1 2 0 0 0 0 0 0 0 0 0",
		"proc/meminfo": "MemTotal: 1000 kB\nMemFree: 400 kB\nHugePages_Total: 3",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":   "3",
		"sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "2",
	})
	if all, err := n.CPUTimes(-1); err != nil || all != (CPUTimes{Kernel: 16 * tick, User: 3 * tick, Idle: 4 * tick, IOWait: 5 * tick}) {
		t.Errorf("%+v, %v", all, err)
	}
	if one, err := n.CPUTimes(1); err != nil || one.User != 2*tick {
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := n.CPUTimes(2); err == nil {
		t.Error("processor 2 has times")
	}
	if got, ok := n.FreePages(0, 4); !ok || got != 100 {
		t.Errorf("%d small pages free, %t", got, ok)
	}
	if got, ok := n.FreePages(0, 2048); !ok || got != 2 {
		t.Errorf("%d huge pages free, %t", got, ok)
	}
	if _, ok := n.FreePages(0, 1048576); ok {
		t.Error("1 GiB pages exist")
	}
	if got := n.HugePages(0); len(got) != 1 || got[2048] != 3 {
		t.Errorf("%v", got)
	}
	if _, err := n.CellMemory(1); err == nil {
		t.Error("cell 1 exists")
	}
}

func TestIOMMU(t *testing.T) {
	if tree(map[string]string{"sys/kernel/mm/ksm/run": "0"}).IOMMU() {
		t.Error("a host without groups has an IOMMU")
	}
	if !tree(map[string]string{"sys/kernel/iommu_groups/0/type": "DMA"}).IOMMU() {
		t.Error("a host with a group has none")
	}
}
