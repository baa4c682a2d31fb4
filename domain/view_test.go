package domain

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"libvirt.org/go/libvirtxml"
	"pgregory.net/rapid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// TestView: the view that is made late is the document's, and a document without one is refused whether or not others of
// its kind were read before.
func TestView(t *testing.T) {
	const document = "<domain type='kvm'><name>a</name><memory>1024</memory><blkiotune><weight>5</weight></blkiotune>" +
		"<os><type>hvm</type></os></domain>"
	with := func(weight string) (*Definition, error) {
		return Parse(strings.Replace(document, ">5<", ">"+weight+"<", 1), Options{})
	}
	for range 2 {
		for _, weight := range []uint{5, 7, 1_000_000_000} {
			def, err := with(strconv.FormatUint(uint64(weight), 10))
			if err != nil {
				t.Fatal(err)
			}
			if got := def.View().BlockIOTune.Weight; got != weight {
				t.Errorf("weight %d, want %d", got, weight)
			}
			if def.View() != def.View() {
				t.Error("made twice")
			}
		}
		for _, weight := range []string{"x", "-5", "0x5", "18446744073709551616"} {
			if _, err := with(weight); !virterr.Is(err, virterr.XMLError) {
				t.Errorf("weight %s: %v", weight, err)
			}
		}
	}
}

// TestViewOfEach: every document's view says what decoding its text says, also when its shape was known.
func TestViewOfEach(t *testing.T) {
	for name, text := range documents(t, "domain") {
		for range 2 {
			def, err := Parse(text, Options{})
			if err != nil {
				break // a bad one
			}
			want := &libvirtxml.Domain{}
			if err := want.Unmarshal(def.XML(XMLSecure)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, def.View(), cmpopts.IgnoreFields(libvirtxml.DomainMetadata{}, "XML")); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	}
}

// TestShape: of documents of one shape all have a typed view or none has, whatever is changed in one.
func TestShape(t *testing.T) {
	var trees []*xmltree.Document
	for _, text := range documents(t, "domain") {
		if def, err := Parse(text, Options{}); err == nil {
			trees = append(trees, def.Tree())
		}
	}
	decodes := func(d *xmltree.Document) bool { return d.Decode(&libvirtxml.Domain{}) == nil }
	same := 0
	rapid.Check(t, func(t *rapid.T) {
		before := trees[rapid.IntRange(0, len(trees)-1).Draw(t, "document")]
		after := before.Clone()
		change(t, after.Root)
		if shapeOf(before) != shapeOf(after) {
			return
		}
		same++
		if decodes(before) != decodes(after) {
			t.Fatalf("%s\nhas a view, but not\n%s", before, after)
		}
	})
	if same == 0 {
		t.Error("every change changed the shape")
	}
}

// change puts another value somewhere into a tree.
func change(t *rapid.T, root *xmltree.Node) {
	var values []*string
	_ = root.Walk(func(n *xmltree.Node) error {
		for i := range n.Attrs {
			values = append(values, &n.Attrs[i].Value)
		}
		if n.Kind == xmltree.Text {
			values = append(values, &n.Text)
		}
		return nil
	})
	value := rapid.SampledFrom(values).Draw(t, "which")
	*value = rapid.SampledFrom([]string{"", "x", "-1", "0", "1", "08", "999999999", "1000000000", "0x10", "pci", "18446744073709551616"}).Draw(t, "value")
}

// TestShapeOfTypes: what shapes leave out is text in every type of the view, and every number of the view holds what is
// left out as a number.
func TestShapeOfTypes(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("xml"), ",")
			of := f.Type
			for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
				of = of.Elem()
			}
			text := of.Kind() == reflect.String
			numbers := []reflect.Kind{reflect.Int, reflect.Uint, reflect.Int64, reflect.Uint64}
			if !text && of.Kind() != reflect.Struct && !slices.Contains(numbers, of.Kind()) {
				t.Errorf("%s.%s is a %s", typ, f.Name, of)
			}
			attr := slices.Contains(strings.Split(options, ","), "attr")
			if attr && freeAttr(xmltree.Name{Local: name}) && !text {
				t.Errorf("%s.%s is attribute %s and no text", typ, f.Name, name)
			}
			walk(of)
		}
	}
	walk(reflect.TypeFor[libvirtxml.Domain]())
	if len(seen) < 300 {
		t.Errorf("%d types", len(seen))
	}
}
