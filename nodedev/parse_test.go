package nodedev

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

const kernelMessage = "add@/devices/pci0000:00/0000:00:02.0/0000:01:10.0\x00ACTION=add\x00DEVPATH=/devices/pci0000:00/0000:00:02.0/0000:01:10.0\x00SUBSYSTEM=pci\x00SEQNUM=4711\x00"

// udevMessage is what udevd sends for properties.
func udevMessage(properties string) []byte {
	msg := append([]byte("libudev\x00"), 0xfe, 0xed, 0xca, 0xfe)
	msg = binary.NativeEndian.AppendUint32(msg, 40)
	msg = binary.NativeEndian.AppendUint32(msg, 40)
	msg = binary.NativeEndian.AppendUint32(msg, uint32(len(properties)))
	return append(append(msg, make([]byte, 16)...), properties...)
}

func TestParseUevent(t *testing.T) {
	want := Uevent{"add", "devices/pci0000:00/0000:00:02.0/0000:01:10.0"}
	_, properties, _ := strings.Cut(kernelMessage, "\x00")
	for name, msg := range map[string][]byte{"kernel": []byte(kernelMessage), "udevd": udevMessage(properties)} {
		if u, err := parseUevent(msg); err != nil || u != want {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	for _, bad := range []string{
		"", "add", "add@/devices/x", "add@/devices/x\x00", "add@/devices/x\x00ACTION=add\x00", "add@/x\x00ACTION=add\x00DEVPATH=/etc/passwd\x00",
		"add@/x\x00ACTION=add\x00DEVPATH=/devices/../../etc\x00", "add@/x\x00ACTION=add\x00DEVPATH=/devices/\x00", "libudev\x00" + strings.Repeat("\xff", 60),
	} {
		if u, err := parseUevent([]byte(bad)); err == nil {
			t.Errorf("%q is taken for %+v", bad, u)
		}
	}
}

// FuzzUevent: whatever arrives on the socket is refused or names a device below /sys/devices.
func FuzzUevent(f *testing.F) {
	f.Add([]byte(kernelMessage))
	f.Add(udevMessage("ACTION=remove\x00DEVPATH=/devices/virtual/net/tun0\x00"))
	f.Add(udevMessage("")[:24])
	f.Add([]byte("move@/devices/a\x00ACTION=move\x00DEVPATH=/devices/a/../b\x00DEVPATH_OLD=/devices/c\x00"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		u, err := parseUevent(msg)
		if err == nil && (u.Action == "" || !strings.HasPrefix(u.Path, "devices/") || strings.Contains(u.Path, "/../") || strings.HasSuffix(u.Path, "/..")) {
			t.Errorf("%+v", u)
		}
	})
}

func TestPCIIDs(t *testing.T) {
	ids := &pciIDs{files: []string{"testdata/pci.ids"}}
	for _, c := range []struct {
		vendor, device uint16
		want           string
	}{
		{0x8086, 0x10c9, "Intel Corporation/82576 Gigabit Network Connection"}, {0x8086, 0x31ef, "Intel Corporation/"},
		{0x1b36, 0x0010, "Red Hat, Inc./QEMU NVM Express Controller"}, {0x1af4, 0x1100, "Red Hat, Inc./"}, {0x0000, 0x0000, "/"}, {0xffff, 0, "/"},
	} {
		for range 2 { // the second time from memory
			if v, d := ids.lookup(c.vendor, c.device); v+"/"+d != c.want {
				t.Errorf("%04x:%04x is %s/%s, want %s", c.vendor, c.device, v, d, c.want)
			}
		}
	}
	if v, d := (&pciIDs{files: []string{"does/not/exist"}}).lookup(0x8086, 0x10c9); v+d != "" {
		t.Errorf("names without a file: %s, %s", v, d)
	}
}

// FuzzPCIIDs: any file gives names that XML can carry, or none.
func FuzzPCIIDs(f *testing.F) {
	file, err := os.ReadFile("testdata/pci.ids")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file, uint16(0x8086))
	f.Add([]byte("8086  \xff\x00x\n\t10c9  a\n\t\t\n8087\n"), uint16(0x8086))
	f.Add(bytes.Repeat([]byte("x"), 70000), uint16(0))
	f.Fuzz(func(t *testing.T, file []byte, vendor uint16) {
		v := parseVendor(bytes.NewReader(file), vendor)
		for _, name := range v.devices {
			if !utf8.ValidString(name) || strings.ContainsAny(name, "\x00\x01\n") {
				t.Errorf("%q", name)
			}
		}
	})
}

// FuzzConfig: a function's configuration space is written by the device.
func FuzzConfig(f *testing.F) {
	space := make([]byte, configSize)
	space[0x06], space[0x34], space[0x40], space[0x41] = 0x10, 0x40, 0x01, 0x40 // a loop
	f.Add(bytes.Clone(space))
	space[0x34], space[0xfc] = 0xfc, 0x10 // at the very end
	f.Add(bytes.Clone(space))
	space[0x0e], space[0x14] = 0x02, 0x40
	f.Add(space)
	f.Fuzz(func(t *testing.T, config []byte) {
		if len(config) > 0x40 { // shorter ones go by files
			(&host{}).express(&node{}, config)
		}
	})
}

// FuzzUdevDatabase: an entry of udevd's database.
func FuzzUdevDatabase(f *testing.F) {
	f.Add("S:disk/by-id/x\nE:ID_SERIAL=a b\nE:\nE:=\nnonsense\nS\n")
	f.Fuzz(func(t *testing.T, text string) {
		props := map[string]string{}
		for _, l := range parseDatabase(text, props) {
			if !strings.HasPrefix(l, "/dev/") {
				t.Error(l)
			}
		}
		for _, v := range props {
			if !utf8.ValidString(v) {
				t.Errorf("%q", v)
			}
		}
	})
}
