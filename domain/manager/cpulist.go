package manager

import (
	"strconv"
	"strings"

	"virtd/domain"
)

// cpuList writes a bit map of CPUs the way libvirt's cpuset attributes do: 0-3,5.
func cpuList(cpus []byte) string {
	has := func(i int) bool { return i/8 < len(cpus) && cpus[i/8]&(1<<(i%8)) != 0 }
	var parts []string
	for i := 0; i < 8*len(cpus); i++ {
		if !has(i) {
			continue
		}
		first := i
		for has(i + 1) {
			i++
		}
		part := strconv.Itoa(first)
		if i > first {
			part += "-" + strconv.Itoa(i)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ",")
}

// parseCPUList reads what cpuList writes, as a bit map.
func parseCPUList(text string) ([]byte, error) {
	list, err := domain.ParseCPUSet(text)
	if err != nil {
		return nil, err
	}
	var cpus []byte
	for _, i := range list {
		for len(cpus) <= i/8 {
			cpus = append(cpus, 0)
		}
		cpus[i/8] |= 1 << (i % 8)
	}
	return cpus, nil
}
