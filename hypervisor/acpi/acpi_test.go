package acpi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"virtd/hypervisor/pci"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func windows(ecam uint64) pci.Windows {
	return pci.Windows{ECAM: ecam, Memory32: pci.Range{Base: 0xc0000000, Size: 0x20000000},
		Memory64: pci.Range{Base: 0x800000000, Size: 0x800000000}, IO: pci.Range{Base: 0xc000, Size: 0x4000}, PMBase: 0x600}
}

func cpus(n, online int) []CPU {
	out := make([]CPU, n)
	for i := range out {
		out[i] = CPU{uint32(i), i < online}
	}
	return out
}

// ports8 puts n root ports on the functions of slots 2 and up.
func ports8(n uint8) (out []Port) {
	for i := range n {
		out = append(out, Port{Index: i + 1, Slot: 2 + i/8, Function: i % 8})
	}
	return out
}

// machines are the configurations whose tables are held still, by machine version and case.
func machines() map[string]Config {
	all := map[string]Config{
		"pc-q35-virtd-1.0": {Board: Q35, CPUs: cpus(1, 1), Windows: windows(0xe0000000), Slots: []uint8{0, 2, 31}, LastBus: 1,
			Ports: ports8(1), Serials: []Serial{0}, PVPanic: true},
		"pc-q35-virtd-1.0-64cpus": {Board: Q35, CPUs: append(cpus(62, 60), CPU{254, true}, CPU{255, true}), Windows: windows(0xe0000000),
			Slots: []uint8{0, 2, 3, 4, 31}, LastBus: 17, Ports: ports8(17), Serials: []Serial{3, 0, 1}},
		"pc-i440fx-virtd-1.0": {Board: PC, CPUs: cpus(4, 2), Windows: windows(0), Slots: []uint8{0, 1, 2, 3, 4, 31},
			Serials: []Serial{0, 1}, PVPanic: true},
	}
	for name, c := range maps.Clone(all) { // what 1.1 added
		c.CPUHotplug = true
		all[strings.Replace(name, "-1.0", "-1.1", 1)] = c
	}
	return all
}

const at = 0xe0000

func place(t *testing.T, c Config) []byte {
	t.Helper()
	b, err := Build(c).Place(at, 0x10000)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGolden(t *testing.T) {
	for name, c := range machines() {
		got := hex.Dump(place(t, c))
		path := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s: the guest ABI changed (-want +got):\n%s", name, d)
		}
	}
}

// tables follows RSDP and XSDT as a guest would and returns the tables by signature, checked.
func tables(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	zeroSum := func(what string, p []byte) {
		var sum byte
		for _, v := range p {
			sum += v
		}
		if sum != 0 {
			t.Errorf("%s: checksum is off by %d", what, sum)
		}
	}
	if string(b[:8]) != "RSD PTR " {
		t.Fatalf("no RSDP: %q", b[:8])
	}
	zeroSum("RSDP", b[:20])
	zeroSum("extended RSDP", b[:36])
	out := map[string][]byte{}
	read := func(gpa uint64) []byte {
		off := gpa - at
		n := le.Uint32(b[off+4:])
		p := b[off : off+uint64(n)]
		zeroSum(string(p[:4]), p)
		out[string(p[:4])] = p
		return p
	}
	xsdt := read(le.Uint64(b[24:]))
	for i := headerSize; i < len(xsdt); i += 8 {
		read(le.Uint64(xsdt[i:]))
	}
	fadt := out["FACP"]
	if x, d := le.Uint64(fadt[140:]), le.Uint32(fadt[40:]); x != uint64(d) {
		t.Errorf("DSDT at %#x and %#x", x, d)
	}
	read(le.Uint64(fadt[140:]))
	facs := le.Uint32(fadt[36:])
	if facs%64 != 0 || string(b[facs-at:facs-at+4]) != "FACS" {
		t.Errorf("FACS at %#x", facs)
	}
	out["FACS"] = b[facs-at : facs-at+64]
	return out
}

func TestStructure(t *testing.T) {
	for name, c := range machines() {
		ts := tables(t, place(t, c))
		if _, ok := ts["MCFG"]; ok != (c.Windows.ECAM != 0) {
			t.Errorf("%s: MCFG present: %v", name, ok)
		}
		if n := len(ts["FACP"]); n != fadtSize {
			t.Errorf("%s: FADT of %d bytes", name, n)
		}
		if got := binary.LittleEndian.Uint32(ts["FACP"][56:]); got != 0x600 {
			t.Errorf("%s: PM1a events at %#x", name, got)
		}
	}
}

func TestTooLargeForItsPlace(t *testing.T) {
	if _, err := Build(machines()["pc-q35-virtd-1.0"]).Place(at, 100); err == nil {
		t.Error("tables placed where they do not fit")
	}
}

func TestPlaceMoves(t *testing.T) {
	tb := Build(machines()["pc-q35-virtd-1.0"])
	before := bytes.Clone(tb.Tables)
	if _, err := tb.Place(at, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.Place(0xf0000, 1<<20); err != nil || !bytes.Equal(before, tb.Tables) {
		t.Error("placing changed the blobs")
	}
}

func TestEncoding(t *testing.T) {
	long := make(aml, 5000)
	for _, c := range []struct {
		name string
		got  aml
		want string
	}{
		{"one-byte length", withLength(long[:62]), "3f"},
		{"two-byte length", withLength(long[:63])[:2], "4104"},
		{"two-byte length, largest", withLength(long[:4093])[:2], "4fff"},
		{"three-byte length", withLength(long[:4094])[:3], "810001"},
		{"root name", nameString(`\_S5`), "5c5f53355f"},
		{"two segments", nameString("_SB.PCI0"), "2e5f53425f50434930"},
		{"three segments", nameString(`\A.B.C`), "5c2f03415f5f5f425f5f5f435f5f5f"},
		{"EISA id", eisaID("PNP0501"), "0c41d00501"},
		{"byte", integer(2), "0a02"},
		{"word", integer(0x1234), "0b3412"},
		{"dword", integer(0x12345678), "0c78563412"},
		{"qword", integer(1 << 40), "0e0000000000010000"},
		{"uuid", uuid("33db4d5b-1ff7-401c-9657-7441c03dd766"), "11130a105b4ddb33f71f1c4096577441c03dd766"},
	} {
		if got := hex.EncodeToString(c.got); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestIASL disassembles every table and compiles the DSDT again, and expects no error and no warning.
func TestIASL(t *testing.T) {
	iasl, err := exec.LookPath("iasl")
	if err != nil {
		t.Skip("iasl is not installed (package acpica-tools)")
	}
	count := regexp.MustCompile(`(\d+) Errors?, (\d+) Warnings?`)
	for name, c := range machines() {
		dir := t.TempDir()
		for sig, b := range tables(t, place(t, c)) {
			file := filepath.Join(dir, strings.ToLower(sig)+".aml")
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(iasl, "-d", file).CombinedOutput()
			if err != nil || strings.Contains(string(out), "rror") || strings.Contains(string(out), "nvalid") {
				t.Errorf("%s: iasl -d %s: %v\n%s", name, sig, err, out)
			}
			if sig != "DSDT" {
				continue
			}
			again := filepath.Join(dir, "again")
			out, err = exec.Command(iasl, "-oa", "-p", again, strings.TrimSuffix(file, ".aml")+".dsl").CombinedOutput()
			m := count.FindStringSubmatch(string(out))
			if err != nil || m == nil || m[1] != "0" || m[2] != "0" {
				t.Errorf("%s: iasl: %v\n%s", name, err, out)
				continue
			}
			compiled, err := os.ReadFile(again + ".aml")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(compiled[headerSize:], b[headerSize:]) {
				t.Errorf("%s: iasl encodes the DSDT differently (%d bytes, ours %d)", name, len(compiled), len(b))
			}
		}
	}
}
