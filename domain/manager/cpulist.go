package manager

import (
	"strconv"
	"strings"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/virterr"
)

// maxHostCPU bounds the numbers in a CPU list; Linux is built for at most 8192 CPUs.
const maxHostCPU = 8191

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

// parseCPUList reads what cpuList writes, and libvirt's ^N for a CPU taken out again.
func parseCPUList(text string) ([]byte, error) {
	var cpus []byte
	bad := func() error { return virterr.New(virterr.InvalidArg, "Failed to parse bitmap '%s'", text) }
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		part, out := strings.CutPrefix(part, "^")
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 0 || last < first || last > maxHostCPU {
			return nil, bad()
		}
		for len(cpus) <= last/8 {
			cpus = append(cpus, 0)
		}
		for i := first; i <= last; i++ {
			if out {
				cpus[i/8] &^= 1 << (i % 8)
			} else {
				cpus[i/8] |= 1 << (i % 8)
			}
		}
	}
	return cpus, nil
}

// pinned returns def with a <vcpupin> for the vCPU.
func pinned(def *domain.Definition, vcpu int, set string) (*domain.Definition, error) {
	doc := def.Tree()
	tune := doc.Root.Ensure("cputune")
	var pin *xmltree.Node
	for _, p := range tune.All("vcpupin") {
		if p.Attr("vcpu") == strconv.Itoa(vcpu) {
			pin = p
		}
	}
	if pin == nil {
		pin = xmltree.New("vcpupin", "vcpu", strconv.Itoa(vcpu))
		tune.Append(pin)
	}
	pin.SetAttr("cpuset", set)
	return domain.Parse(doc.String(), domain.Options{Stored: true, Live: def.ID() >= 0, Emulator: def.View().Devices.Emulator})
}
