package xmltree_test

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"libvirt.org/go/libvirtxml"

	"virtd/domain/xmltree"
)

// TestDecode: a tree reads as its text does, but for what keeps the text itself.
func TestDecode(t *testing.T) {
	documents, err := filepath.Glob("../../xml/testdata/domain/*.xml")
	if err != nil || len(documents) < 50 {
		t.Fatalf("%d documents, %v", len(documents), err)
	}
	for _, name := range documents {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := xmltree.Parse(text)
		if err != nil {
			continue // a bad one
		}
		var want, got libvirtxml.Domain
		wantErr := xml.Unmarshal([]byte(doc.String()), &want)
		err = doc.Decode(&got)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%s: error %v, want %v", name, err, wantErr)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(libvirtxml.DomainMetadata{}, "XML")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDecodeNamespaces(t *testing.T) {
	doc, err := xmltree.Parse([]byte(`<r xmlns="urn:d" xmlns:q="urn:q"><a q:x="1" x="2">one<!-- c --> two &amp; <![CDATA[<3>]]></a><q:a>q</q:a></r>`))
	if err != nil {
		t.Fatal(err)
	}
	type attrs struct {
		Q    string `xml:"urn:q x,attr"`
		X    string `xml:"x,attr"`
		Text string `xml:",chardata"`
	}
	type root struct {
		XMLName xml.Name `xml:"urn:d r"`
		A       attrs    `xml:"urn:d a"`
		Q       string   `xml:"urn:q a"`
	}
	var got root
	if err := doc.Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := root{xml.Name{Space: "urn:d", Local: "r"}, attrs{"1", "2", "one two & <3>"}, "q"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
