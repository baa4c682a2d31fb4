package portconf

import (
	"reflect"
	"strings"
	"testing"

	"virtd/domain/xmltree"
)

func parse(t *testing.T, text string) *xmltree.Node {
	t.Helper()
	doc, err := xmltree.Parse([]byte("<x>" + text + "</x>"))
	if err != nil {
		t.Fatal(err)
	}
	return doc.Root
}

// TestBandwidth: what is read is what is printed, and mistakes are named as libvirt names them.
func TestBandwidth(t *testing.T) {
	in := "<bandwidth><inbound average='1000' peak='5000' floor='200' burst='1024'/><outbound average='128' burst='256'/></bandwidth>"
	b, err := ReadBandwidth(parse(t, in), true)
	want := Bandwidth{In: Rate{Average: 1000, Peak: 5000, Floor: 200, Burst: 1024}, Out: Rate{Average: 128, Burst: 256}}
	if err != nil || b != want {
		t.Fatalf("%+v, %v", b, err)
	}
	doc := xmltree.New("x")
	doc.Append(b.Node())
	if back, err := ReadBandwidth(doc, true); err != nil || back != b {
		t.Errorf("printed and read: %+v, %v", back, err)
	}
	if b, err := ReadBandwidth(parse(t, "<bandwidth><inbound average='0'/></bandwidth>"), false); err != nil || b.Limited() || b.Node() != nil {
		t.Errorf("average 0 is no limit: %+v, %v", b, err)
	}
	for text, says := range map[string]string{
		"<inbound peak='5'/>":                            "Missing mandatory average or floor attributes",
		"<inbound/>":                                     "Missing mandatory average or floor attributes",
		"<inbound floor='1' peak='5'/>":                  "'peak' and 'burst' require 'average' attribute",
		"<outbound average='1' floor='5'/>":              "'floor' attribute allowed only in <inbound> element",
		"<inbound average='-1'/>":                        "could not convert bandwidth average value '-1'",
		"<inbound average='99999999999'/>":               "could not convert bandwidth average value '99999999999'",
		"<inbound average='1' burst='x'/>":               "could not convert bandwidth burst value 'x'",
		"<inbound average='1'/><inbound average='2'/>":   "Only one child <inbound> element allowed",
		"<outbound average='1'/><outbound average='2'/>": "Only one child <outbound> element allowed",
	} {
		if _, err := ReadBandwidth(parse(t, "<bandwidth>"+text+"</bandwidth>"), true); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ReadBandwidth(parse(t, in), false); err == nil || !strings.Contains(err.Error(), "floor attribute is not supported for this config") {
		t.Errorf("floor where there is none: %v", err)
	}
}

// TestVLAN is the same for tags.
func TestVLAN(t *testing.T) {
	for text, want := range map[string]VLAN{
		"<vlan><tag id='5'/></vlan>":                                              {Tags: []uint16{5}},
		"<vlan trunk='yes'><tag id='5'/></vlan>":                                  {Tags: []uint16{5}, Trunk: true},
		"<vlan><tag id='5'/><tag id='6' nativeMode='untagged'/></vlan>":           {Tags: []uint16{5, 6}, Trunk: true, Native: 6},
		"<vlan trunk='yes'><tag id='4094' nativeMode='tagged'/></vlan>":           {Tags: []uint16{4094}, Trunk: true, Native: 4094, NativeTagged: true},
		"<vlan trunk='no'><tag id='1'/></vlan><bandwidth/><other><vlan/></other>": {Tags: []uint16{1}},
		"": {},
	} {
		v, err := ReadVLAN(parse(t, text))
		if err != nil || !reflect.DeepEqual(v, want) {
			t.Errorf("%s: %+v, %v", text, v, err)
			continue
		}
		doc := xmltree.New("x")
		if n := v.Node(); n != nil {
			doc.Append(n)
		}
		if back, err := ReadVLAN(doc); err != nil || !reflect.DeepEqual(back, v) {
			t.Errorf("%s printed and read: %+v, %v", text, back, err)
		}
	}
	for text, says := range map[string]string{
		"<vlan/>":                                                   "missing tag id - each <vlan> must have at least one <tag id='n'/> subelement",
		"<vlan><tag/></vlan>":                                       "missing vlan tag data",
		"<vlan><tag id='x'/></vlan>":                                "not a number",
		"<vlan><tag id='4096'/></vlan>":                             "vlan tag id 4096 too large (maximum 4095)",
		"<vlan><tag id='4095'/></vlan>":                             "1 to 4094",
		"<vlan><tag id='0'/></vlan>":                                "1 to 4094",
		"<vlan trunk='no'><tag id='1'/><tag id='2'/></vlan>":        "trunk='yes' is required for more than one vlan tag",
		"<vlan trunk='no'><tag id='1' nativeMode='tagged'/></vlan>": "is not allowed with a native vlan id",
		"<vlan trunk='maybe'><tag id='1'/></vlan>":                  "must be yes or no",
		"<vlan><tag id='1' nativeMode='x'/></vlan>":                 "must be 'tagged' or 'untagged'",
		"<vlan><tag id='1' nativeMode='tagged'/><tag id='2' nativeMode='tagged'/></vlan>": "duplicate native vlan setting",
	} {
		if _, err := ReadVLAN(parse(t, text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
