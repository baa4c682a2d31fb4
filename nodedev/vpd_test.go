package nodedev

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vpdResource is a large resource.
func vpdResource(tag byte, content []byte) []byte {
	return append(binary.LittleEndian.AppendUint16([]byte{tag}, uint16(len(content))), content...)
}

func vpdPair(keyword, value string) []byte {
	return append([]byte{keyword[0], keyword[1], byte(len(value))}, value...)
}

// vpdImage is what a card with these read-only fields has, the checksum right, then other resources and the end.
func vpdImage(name string, readOnly []byte, more ...byte) []byte {
	data := vpdResource(vpdName, []byte(name))
	readOnly = append(bytes.Clone(readOnly), 'R', 'V', 1, 0)
	data = append(data, vpdResource(vpdR, readOnly)...)
	data[len(data)-1] = -sum(data)
	return append(append(data, more...), vpdEnd)
}

func fullVPD() []byte {
	read := bytes.Join([][]byte{vpdPair("PN", "ABC-1"), vpdPair("EC", "B1"), vpdPair("SN", "0042\x00\x00"), vpdPair("MN", "1af4"), vpdPair("V0", "PCIe x8"),
		vpdPair("VA", "K:V=1"), vpdPair("Vb", "lower case"), vpdPair("LC", "x"), vpdPair("SN", "another"), vpdPair("V1", "\x01binary"), vpdPair("Y0", "not here")}, nil)
	write := bytes.Join([][]byte{vpdPair("Y1", "rack 7"), vpdPair("YA", "asset"), vpdPair("V2", "two"), vpdPair("RW", "\x00\x00\x00")}, nil)
	return vpdImage("Example <&> NIC", read, append(vpdResource(vpdW, write), 0x09, 'x')...)
}

func TestVPD(t *testing.T) {
	v, err := parseVPD(append(fullVPD(), 0xff, 0xff))
	if err != nil {
		t.Fatal(err)
	}
	const want = `<capability type='vpd'>
  <name>Example &lt;&amp;&gt; NIC</name>
  <fields access='readonly'>
    <change_level>B1</change_level>
    <manufacture_id>1af4</manufacture_id>
    <part_number>ABC-1</part_number>
    <serial_number>0042</serial_number>
    <vendor_field index='0'>PCIe x8</vendor_field>
    <vendor_field index='A'>K:V=1</vendor_field>
  </fields>
  <fields access='readwrite'>
    <asset_tag>asset</asset_tag>
    <vendor_field index='2'>two</vendor_field>
    <system_field index='1'>rack 7</system_field>
  </fields>
</capability>
`
	if got := v.element().String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	v, err = parseVPD(append(vpdResource(vpdName, []byte("only a name")), vpdEnd))
	if err != nil || v.element().String() != "<capability type='vpd'>\n  <name>only a name</name>\n</capability>\n" {
		t.Errorf("%v, %v", v, err)
	}
}

func TestHostileVPD(t *testing.T) {
	full := fullVPD()
	for end := range len(full) - 1 { // without an end, everywhere
		if _, err := parseVPD(full[:end]); err == nil {
			t.Errorf("the first %d bytes are taken", end)
		}
	}
	checksum := bytes.Clone(full)
	checksum[5]++
	pair := vpdPair("PN", "ABC")
	long := bytes.Clone(pair)
	long[2] = 200 // beyond its resource
	for name, data := range map[string][]byte{
		"empty": {}, "erased": bytes.Repeat([]byte{0xff}, maxVPD), "zeros": make([]byte, maxVPD),
		"only an end": {vpdEnd}, "checksum": checksum, "no checksum": append(append(vpdResource(vpdName, []byte("x")), vpdResource(vpdR, pair)...), vpdEnd),
		"fields before the name":   append(vpdResource(vpdR, nil), append(vpdResource(vpdName, []byte("x")), vpdEnd)...),
		"a field beyond":           vpdImage("x", long),
		"a cut field":              append(append(vpdResource(vpdName, []byte("x")), vpdResource(vpdW, []byte("PN"))...), vpdEnd),
		"an empty checksum":        append(append(vpdResource(vpdName, []byte("x")), vpdResource(vpdR, []byte("RV\x00"))...), vpdEnd),
		"a checksum not read-only": append(append(vpdResource(vpdName, []byte("x")), vpdResource(vpdW, []byte("RV\x01\x00"))...), vpdEnd),
	} {
		if v, err := parseVPD(data); err == nil {
			t.Errorf("%s is taken for %+v", name, v)
		}
	}
}

// TestVPDCapability: a card with product data has the capability, one with garbage in its place has not, and another card at
// the same address is looked at anew.
func TestVPDCapability(t *testing.T) {
	cfg := testConfig(t)
	file := filepath.Join(cfg.Sys, nvme, "vpd")
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(file+".new", data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("garbage"))
	m := open(t, cfg)
	for _, step := range []struct {
		data []byte
		has  bool
	}{{nil, false}, {fullVPD(), true}, {[]byte{0xff}, false}} {
		if step.data != nil {
			write(step.data)
		}
		m.resync()
		d, err := m.Lookup("pci_0000_03_00_0")
		if err != nil {
			t.Fatal(err)
		}
		text, err := m.XML(d.Name)
		if err != nil || d.Has(VPD) != step.has || strings.Contains(text, "<part_number>ABC-1</part_number>") != step.has {
			t.Errorf("%q: capabilities %v, %v\n%s", step.data, d.Caps, err, text)
		}
	}
}

// FuzzVPD: a card may have any bytes there. What is taken makes a document that its reader understands.
func FuzzVPD(f *testing.F) {
	f.Add(fullVPD())
	f.Add(vpdImage("", nil))
	f.Add([]byte{vpdName, 0, 0, vpdEnd})
	f.Add([]byte{vpdName, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseVPD(data)
		if err != nil {
			return
		}
		for _, fields := range []*vpdFields{v.read, v.write} {
			if fields == nil {
				continue
			}
			for _, field := range fields.list {
				if len(field.value) > 255 || strings.ContainsFunc(field.value, func(r rune) bool { return r < ' ' || r > 'z' }) {
					t.Errorf("%q", field)
				}
			}
		}
		_ = v.element().String()
	})
}
