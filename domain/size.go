package domain

import (
	"math/bits"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// units are libvirt's: one letter and KiB are powers of 1024, KB of 1000. Upper and lower case are the same.
var units = map[string]uint64{"b": 1, "byte": 1, "bytes": 1}

func init() {
	binary, decimal := uint64(1), uint64(1)
	for _, letter := range "kmgtpe" {
		binary, decimal = binary<<10, decimal*1000
		units[string(letter)], units[string(letter)+"ib"], units[string(letter)+"b"] = binary, binary, decimal
	}
}

// ParseSize returns how many bytes number and unit stand for. The unit "" is KiB.
func ParseSize(number, unit string) (uint64, error) {
	scale := uint64(1024)
	if unit != "" {
		var ok bool
		if scale, ok = units[strings.ToLower(unit)]; !ok {
			return 0, virterr.NewFrom(virterr.FromDomain, virterr.InvalidArg,
				"unknown unit '%s'; known are b, KB, KiB, MB, MiB, GB, GiB, TB, TiB, PB, PiB, EB, EiB", unit)
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
	if err != nil {
		return 0, virterr.NewFrom(virterr.FromDomain, virterr.XMLError, "'%s' is not a size", number)
	}
	hi, lo := bits.Mul64(n, scale)
	if hi != 0 {
		return 0, virterr.NewFrom(virterr.FromDomain, virterr.XMLError, "size %s %s is too large", number, unit)
	}
	return lo, nil
}

// readSize reads a memory size element in KiB, rounded up, and writes it back in KiB, as libvirt prints it.
func readSize(n *xmltree.Node) (uint64, error) {
	size, err := ParseSize(n.Trimmed(), n.Attr("unit"))
	if err != nil {
		e := virterr.As(err)
		return 0, n.Errorf(e.Code, "<%s>: %s", n.Name, e.Message)
	}
	kib := size >> 10
	if size&1023 != 0 {
		kib++
	}
	if size > 1<<62 {
		return 0, n.Errorf(virterr.XMLError, "<%s>: %d KiB of memory are too many", n.Name, kib)
	}
	setSize(n, kib)
	return kib, nil
}

// ParseCPUSet reads libvirt's list of CPU numbers: "0-3,^2,8".
func ParseCPUSet(s string) ([]int, error) {
	const limit = 4096 // libvirt accepts more than Linux hosts have; so do we, up to a bound
	set := map[int]bool{}
	top := -1
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		part, exclude := strings.CutPrefix(part, "^")
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		lo, err1 := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
		hi, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		if err1 != nil || err2 != nil || lo > hi || hi >= limit || exclude && isRange {
			return nil, virterr.NewFrom(virterr.FromDomain, virterr.InvalidArg, "failed to parse CPU list '%s'", s)
		}
		for i := int(lo); i <= int(hi); i++ {
			set[i] = !exclude
		}
		top = max(top, int(hi))
	}
	var out []int
	for i := 0; i <= top; i++ {
		if set[i] {
			out = append(out, i)
		}
	}
	if len(out) == 0 {
		return nil, virterr.NewFrom(virterr.FromDomain, virterr.InvalidArg, "CPU list '%s' selects no CPU", s)
	}
	return out, nil
}
