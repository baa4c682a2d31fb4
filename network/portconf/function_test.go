package portconf

import (
	"testing"

	"virtd/domain/xmltree"
)

func TestFunction(t *testing.T) {
	doc, err := xmltree.Parse([]byte("<address type='pci' domain='0' bus='0x81' slot='31' function=' 7 '/>"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ReadFunction(doc.Root)
	if err != nil || f.String() != "0000:81:1f.7" {
		t.Fatalf("%v %v", f, err)
	}
	if again, err := ParseFunction(f.String()); err != nil || again != f {
		t.Errorf("%v %v", again, err)
	}
	if f.Write(doc.Root); doc.Root.Attr("slot") != "0x1f" || doc.Root.Attr("domain") != "0x0000" {
		t.Errorf("written as %s", doc.Root)
	}
	for _, bad := range []string{"", "01:00.0", "0000:01:00.8", "0000:01:20.0", "0000:1:0.0", "0000:01:00.0 ", "0000:01:00.0x"} {
		if f, err := ParseFunction(bad); err == nil {
			t.Errorf("%q is %v", bad, f)
		}
	}
	for _, bad := range []string{"bus='0x100'", "slot='32'", "function='8'", "domain='0x10000'", "bus='one'", "bus='-1'"} {
		doc, err := xmltree.Parse([]byte("<address " + bad + "/>"))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := ReadFunction(doc.Root); err == nil {
			t.Errorf("%s is %v", bad, f)
		}
	}
}
