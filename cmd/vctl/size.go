package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are the ones libvirt's XML knows, in bytes.
var units = map[string]uint64{
	"b": 1, "bytes": 1, "kb": 1000, "k": 1 << 10, "kib": 1 << 10, "mb": 1000 * 1000, "m": 1 << 20, "mib": 1 << 20,
	"gb": 1000 * 1000 * 1000, "g": 1 << 30, "gib": 1 << 30, "tb": 1000 * 1000 * 1000 * 1000, "t": 1 << 40, "tib": 1 << 40,
}

// parseSize reads a size with its unit, such as 512MiB or 1.5G, in bytes. A bare number is refused: virsh takes it for
// KiB and people mean MiB.
func parseSize(text string) (uint64, error) {
	cut := strings.LastIndexAny(text, "0123456789.") + 1
	number, unit := text[:cut], strings.ToLower(strings.TrimSpace(text[cut:]))
	if unit == "" {
		return 0, fmt.Errorf("size '%s' has no unit; write %sMiB, %sGiB or %sKiB", text, text, text, text)
	}
	factor, ok := units[unit]
	if !ok {
		return 0, fmt.Errorf("size '%s': unknown unit '%s'; use KiB, MiB, GiB or TiB", text, text[cut:])
	}
	if n, err := strconv.ParseUint(number, 10, 64); err == nil {
		if n > math.MaxUint64/factor {
			return 0, fmt.Errorf("size '%s' is too large", text)
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.Trim(number, "0123456789.") != "" || f*float64(factor) >= math.MaxInt64 {
		return 0, fmt.Errorf("size '%s' is not a number with a unit", text)
	}
	return uint64(f * float64(factor)), nil
}

// mib prints KiB as MiB.
func mib(kib uint64) string {
	if kib%1024 == 0 {
		return fmt.Sprintf("%d MiB", kib/1024)
	}
	return fmt.Sprintf("%.1f MiB", float64(kib)/1024)
}
