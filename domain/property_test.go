package domain

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// drawDocument makes a document of random devices in random order, some of them with addresses.
func drawDocument(t *rapid.T) string {
	machine := rapid.SampledFrom([]string{"q35", "pc", "pc-q35-8.2"}).Draw(t, "machine")
	q35 := strings.Contains(machine, "q35")
	var b strings.Builder
	fmt.Fprintf(&b, "<domain type='kvm'><name>%s</name><memory unit='%s'>%d</memory>",
		rapid.StringMatching(`[a-zA-Z0-9_.-]{1,20}`).Draw(t, "name"),
		rapid.SampledFrom([]string{"KiB", "MiB", "k", "M", "MB"}).Draw(t, "unit"), rapid.IntRange(100, 100000).Draw(t, "memory"))
	vcpus := rapid.IntRange(1, 64).Draw(t, "vcpus")
	fmt.Fprintf(&b, "<vcpu current='%d'>%d</vcpu>", rapid.IntRange(1, vcpus).Draw(t, "current"), vcpus)
	if text := rapid.String().Draw(t, "description"); xmlText(text) {
		b.WriteString("<description>" + escaped(text) + "</description>")
	}
	fmt.Fprintf(&b, "<os><type machine='%s'>hvm</type></os><devices>", machine)
	kinds := rapid.SliceOfN(rapid.SampledFrom([]string{"disk", "nic", "rng", "serial", "console", "port", "comment", "unknown", "hvc"}), 0, 14).Draw(t, "devices")
	counts := map[string]int{}
	for _, kind := range kinds {
		n := counts[kind]
		counts[kind]++
		switch kind {
		case "disk":
			address := ""
			if rapid.IntRange(0, 3).Draw(t, "addressed") == 0 {
				address = fmt.Sprintf("<address type='pci' bus='%d' slot='0'/>", 20+n)
				if !q35 {
					address = fmt.Sprintf("<address type='pci' bus='0' slot='%d'/>", 20+n%10)
				}
			}
			if n < 10 {
				fmt.Fprintf(&b, "<disk><source file='/i/%d'/><target dev='vd%c'/>%s</disk>", n, 'a'+n, address)
			}
		case "nic":
			b.WriteString("<interface type='bridge'><source bridge='br0'/></interface>")
		case "rng":
			b.WriteString("<rng><backend/></rng>")
		case "serial":
			if n < 3 {
				b.WriteString("<serial type='pty'/>")
			}
		case "console":
			if n == 0 && counts["hvc"] == 0 {
				b.WriteString("<console type='pty'/>")
			}
		case "hvc":
			b.WriteString("<console type='null'><target type='virtio'/></console>")
		case "port":
			if q35 {
				b.WriteString("<controller type='pci' model='pcie-root-port'/>")
			}
		case "comment":
			b.WriteString("<!-- note -->")
		case "unknown":
			b.WriteString("<gadget size='3'>x</gadget>")
		}
	}
	b.WriteString("</devices></domain>")
	return b.String()
}

// xmlText reports whether text can stand in an XML document.
func xmlText(s string) bool {
	_, err := xmltree.Parse([]byte("<a>" + escaped(s) + "</a>"))
	return err == nil
}

func escaped(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#13;").Replace(s)
}

// What Parse makes of a document is a fixed point: printing and parsing it again changes nothing, and a second device
// changes no address of the first ones.
func TestPropertyStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawDocument(t)
		d, err := Parse(text, Options{})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		again, err := Parse(d.XML(0), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !again.doc.Equal(d.doc) {
			t.Fatalf("differs: %s", cmp.Diff(d.XML(0), again.XML(0)))
		}
		if diff := cmp.Diff(d.View(), again.View()); diff != "" {
			t.Fatalf("view differs: %s", diff)
		}
		before := addressesOf(d)
		more, err := d.edit(func(root *xmltree.Node) error {
			nic := xmltree.New("interface", "type", "ethernet")
			root.Child("devices").InsertAt(rapid.IntRange(0, 3).Draw(t, "at"), nic)
			return nil
		})
		if virterr.Is(err, virterr.ConfigUnsupported) { // the machine is full
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		after := addressesOf(more)
		for id, address := range before {
			if after[id] != address {
				t.Fatalf("%s moved from %s to %s", id, address, after[id])
			}
		}
	})
}

// addressesOf maps something that identifies each device to its address.
func addressesOf(d *Definition) map[string]string {
	out := map[string]string{}
	rngs := 0
	for _, dev := range d.doc.Root.Child("devices").Elements() {
		id := dev.Name.String() + dev.Attr("type") + dev.Attr("index") + dev.Child("mac").Attr("address") + dev.Child("target").Attr("dev")
		if dev.Is("rng") {
			id += fmt.Sprint(rngs)
			rngs++
		}
		if a := dev.Child("address"); a.Attr("type") == "pci" {
			out[id] = strings.Join([]string{a.Attr("bus"), a.Attr("slot"), a.Attr("function")}, ":")
		}
	}
	return out
}

// FuzzParse feeds anything to Parse: it never panics, its errors are virterr's, and what it accepts is a fixed point that
// can be started.
func FuzzParse(f *testing.F) {
	for _, folder := range []string{"domain", "domain-bad"} {
		for _, text := range documents(f, folder) {
			f.Add(text, uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, text string, mode uint8) {
		opts := Options{Validate: mode&1 != 0, Stored: mode&2 != 0, Live: mode&4 != 0}
		d, err := Parse(text, opts)
		if err != nil {
			if virterr.As(err).Code == virterr.InternalError {
				t.Fatalf("internal error: %v", err)
			}
			return
		}
		opts.Validate = false
		again, err := Parse(d.XML(XMLSecure), opts)
		if err != nil {
			t.Fatalf("%v in\n%s", err, d.XML(XMLSecure))
		}
		if !again.doc.Equal(d.doc) {
			t.Fatalf("not a fixed point: %s", cmp.Diff(d.XML(XMLSecure), again.XML(XMLSecure)))
		}
		live, err := d.Start(1, fakeHost{})
		if err != nil {
			if virterr.As(err).Code == virterr.InternalError {
				t.Fatalf("internal error: %v", err)
			}
			return
		}
		if _, err := Parse(live.XML(XMLInactive), Options{Stored: true}); err != nil {
			t.Fatalf("inactive XML: %v", err)
		}
	})
}

// oddities are values that break careless readers.
var oddities = []string{"", " ", "0", "1", "-1", "255", "256", "65536", "4294967296", "18446744073709551616", "0x1", "0xff", "1e3",
	"on", "off", "yes", "no", "none", "pci", "virtio", "pty", "unix", "null", "file", "/", "/a", "a/b", "..", "vda", "vdb", "vnet3",
	"\n", "\t x", "'", "\"", "&", "<", "é", "ua-x", "q35", "pc", "custom", "host-model", "serial", "variable", "random", "pcie-root"}

// mutate changes the tree somewhere: deletes, copies, moves or rewrites an element, an attribute or a text.
func mutate(t *rapid.T, root *xmltree.Node) {
	var all []*xmltree.Node
	_ = root.Walk(func(n *xmltree.Node) error {
		if n != root && n.Kind == xmltree.Element {
			all = append(all, n)
		}
		return nil
	})
	if len(all) == 0 {
		return
	}
	n := rapid.SampledFrom(all).Draw(t, "element")
	other := rapid.SampledFrom(all).Draw(t, "other")
	value := rapid.SampledFrom(oddities).Draw(t, "value")
	switch rapid.IntRange(0, 6).Draw(t, "mutation") {
	case 0:
		n.Remove()
	case 1:
		other.Parent().Append(n.Clone())
	case 2:
		other.Parent().InsertAt(0, n.Clone())
		n.Remove()
	case 3:
		if len(n.Attrs) > 0 {
			n.SetAttr(rapid.SampledFrom(n.Attrs).Draw(t, "attribute").Name.Local, value)
		}
	case 4:
		if len(n.Attrs) > 0 {
			n.RemoveAttr(rapid.SampledFrom(n.Attrs).Draw(t, "attribute").Name.Local)
		}
	case 5:
		if len(n.Elements()) == 0 {
			n.SetContent(value)
		}
	case 6:
		n.SetAttr(rapid.SampledFrom([]string{"type", "model", "index", "dev", "path", "name", "bus", "slot", "port", "mode"}).Draw(t, "new"), value)
	}
}

// Documents that are almost right: refused with a proper error, or accepted as a fixed point.
func TestPropertyMutated(t *testing.T) {
	docs := documents(t, "domain")
	names := make([]string, 0, len(docs))
	for name := range docs {
		names = append(names, name)
	}
	sort.Strings(names)
	rapid.Check(t, func(t *rapid.T) {
		doc, err := xmltree.Parse([]byte(docs[rapid.SampledFrom(names).Draw(t, "document")]))
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 4).Draw(t, "mutations") {
			mutate(t, doc.Root)
		}
		opts := Options{Stored: rapid.Bool().Draw(t, "stored"), Live: rapid.Bool().Draw(t, "live")}
		text := doc.String()
		d, err := Parse(text, opts)
		if err != nil {
			if virterr.As(err).Code == virterr.InternalError {
				t.Fatalf("internal error: %v", err)
			}
			return
		}
		form := d.XML(XMLSecure)
		if opts.Live { // only a record says where the file of a volume is
			form = d.Record()
		}
		again, err := Parse(form, opts)
		if err != nil {
			t.Fatalf("%v\nof %s", err, text)
		}
		if !again.doc.Equal(d.doc) {
			t.Fatalf("not a fixed point:\n%s\nof %s", cmp.Diff(d.XML(XMLSecure), again.XML(XMLSecure)), text)
		}
		live, err := d.Start(1, fakeHost{})
		if err != nil {
			if !opts.Stored {
				t.Fatalf("cannot start: %v\n%s", err, text)
			}
			return
		}
		if err := live.Check(); err != nil && !opts.Stored {
			t.Fatalf("live definition is refused: %v\n%s", err, live.XML(0))
		}
		if _, err := Parse(live.XML(XMLInactive), Options{}); err != nil && !opts.Stored {
			t.Fatalf("inactive XML is refused: %v\n%s", err, live.XML(XMLInactive))
		}
	})
}
