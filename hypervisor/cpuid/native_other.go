//go:build !amd64

package cpuid

// HostBrand returns "" where there is no CPUID instruction.
func HostBrand() string { return "" }
