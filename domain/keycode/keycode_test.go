package keycode

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"virtd/virterr"
)

// TestTranslate: the letter A and the key Delete in each set.
func TestTranslate(t *testing.T) {
	const keyA, keyDelete = 30, 111
	for set, c := range map[string][2]uint32{
		"linux": {30, 111}, "xt": {30, 0xe053}, "atset1": {30, 0xe053}, "atset2": {28, 0xe071}, "atset3": {28, 100},
		"os_x": {1, 0x75}, "xt_kbd": {30, 339}, "usb": {4, 76}, "win32": {0x41, 0x2e}, "qnum": {30, 211},
	} {
		number := uint32(slices.Index(sets[:], set))
		got, err := Translate(number, c[:])
		want := []uint16{keyA, keyDelete}
		if set == "os_x" { // 0 is the letter A there, which libvirt takes for no code
			want[0] = 31
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s %v: %v, %v, want %v", set, c, got, err, want)
		}
	}
}

func TestTranslateRefuses(t *testing.T) {
	for _, c := range []struct {
		set, code uint32
		kind      virterr.Code
		text      string
	}{
		{10, 30, virterr.InvalidArg, "keycode set 10 is not known"},
		{1<<32 - 1, 30, virterr.InvalidArg, "is not known"},
		{0, 0, virterr.InternalError, "cannot translate keycode 0 of linux codeset to qnum keycode"},
		{7, 300, virterr.InternalError, "cannot translate keycode 300 of usb codeset to qnum keycode"},
	} {
		if _, err := Translate(c.set, []uint32{c.code}); virterr.As(err).Code != c.kind || !strings.Contains(err.Error(), c.text) {
			t.Errorf("set %d, code %d: %v", c.set, c.code, err)
		}
	}
	if keys, err := Translate(0, nil); err != nil || len(keys) != 0 {
		t.Errorf("no codes: %v, %v", keys, err)
	}
}

// TestTable: every set is there, and every key is one that a keyboard has (package virtio/input).
func TestTable(t *testing.T) {
	for _, set := range sets {
		if len(table()[set]) < 100 {
			t.Errorf("%s has %d codes", set, len(table()[set]))
		}
		for c, k := range table()[set] {
			if k == 0 || k > 0xf7 {
				t.Errorf("%s: code %d is key %d", set, c, k)
			}
		}
	}
	for _, bad := range []string{"x 1", "x 2-1=5", "x a=1", "x 1=70000", "x 1-9=65530"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestAgreesWithLibvirt compares with the library of an installed libvirt, by the function that its drivers use. SysRq is the
// one exception: libvirt has a nameless key for it.
func TestAgreesWithLibvirt(t *testing.T) {
	const ask = `
import ctypes
translate = ctypes.CDLL("libvirt.so.0").virKeycodeValueTranslate
for s in range(10):
    for c in list(range(1024)) + list(range(0xe000, 0xe200)):
        if translate(s, 9, c) > 0:
            print(s, c, translate(s, 0, c))
`
	out, err := exec.Command("python3", "-c", ask).Output()
	if err != nil {
		t.Skipf("no python3 with libvirt.so.0 (package libvirt0): %v", err)
	}
	n := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		var set, code uint32
		var key int
		if _, err := fmt.Sscan(line, &set, &code, &key); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if key == 84 {
			key = 99
		}
		if got, err := Translate(set, []uint32{code}); err != nil || int(got[0]) != key {
			t.Errorf("%s %d: %v, %v, libvirt says %d", sets[set], code, got, err, key)
		}
		n++
	}
	total := 0
	for _, set := range sets {
		total += len(table()[set])
	}
	if n != total {
		t.Errorf("libvirt has %d codes, the table %d", n, total)
	}
}
