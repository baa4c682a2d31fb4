package xmltree

import (
	"fmt"
	"strings"
	"testing"

	"virtd/virterr"
)

func TestPrint(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty element", `<a></a>`, "<a/>\n"},
		{"quotes", `<a b="c" d='e"f'/>`, "<a b='c' d='e&quot;f'/>\n"},
		{"layout", "<a>\n<b/><c>t</c>\t</a>", "<a>\n  <b/>\n  <c>t</c>\n</a>\n"},
		{"text kept as written", "<a><b> two\n lines </b></a>", "<a>\n  <b> two\n lines </b>\n</a>\n"},
		{"mixed content gets no layout", "<a>x<b><c/> </b></a>", "<a>x<b><c/></b></a>\n"},
		{"comments", "<!--1--><a><!-- 2 --><b/></a><!--3-->", "<!--1-->\n<a>\n  <!-- 2 -->\n  <b/>\n</a>\n<!--3-->\n"},
		{"cdata", "<a>x<![CDATA[<&>]]>y</a>", "<a>x&lt;&amp;&gt;y</a>\n"},
		{"declaration", "<?xml version='1.0' encoding='utf-8'?>\n<a/>", "<a/>\n"},
		{"processing instruction", "<a><?x y?></a>", "<a>\n  <?x y?>\n</a>\n"},
		{"apostrophe as libvirt", "<a>it's</a>", "<a>it&apos;s</a>\n"},
		{"attribute white space", "<a b='&#10;&#9;&#13;'/>", "<a b='&#xA;&#x9;&#xD;'/>\n"},
		{"carriage return", "<a>x&#13;y\r\nz</a>", "<a>x&#xD;y\nz</a>\n"},
		{"outer namespace", "<d xmlns:q='u'><metadata><q:x a='1'>it's</q:x></metadata><q:y b='2'/></d>",
			"<d xmlns:q='u'>\n  <metadata>\n    <q:x a=\"1\">it's</q:x>\n  </metadata>\n  <q:y b='2'/>\n</d>\n"},
		{"default namespace in metadata", "<d><metadata><x xmlns='u'><y/></x></metadata></d>",
			"<d>\n  <metadata>\n    <x xmlns=\"u\">\n      <y/>\n    </x>\n  </metadata>\n</d>\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			doc, err := Parse([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if got := doc.String(); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			again, err := Parse([]byte(doc.String()))
			if err != nil {
				t.Fatal(err)
			}
			if !again.Equal(doc) {
				t.Errorf("differs after printing and parsing: %q", again.String())
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", "XML error: line 1, column 1: document has no element"},
		{"text only", "hello", "line 1, column 1: text outside"},
		{"text after", "<a/>\nx", "line 1, column 5: text outside"},
		{"two roots", "<a/>\n <b/>", "line 2, column 2: unexpected second element <b>"},
		{"not closed", "<a>\n <b>\n</a>", "line 3, column 1: </a> does not close <b> of line 2, column 2"},
		{"never closed", "<a>\n <b/>", "element <a> of line 1, column 1 is not closed"},
		{"stray close", "<a/></b>", "line 1, column 5: unexpected </b>"},
		{"attribute twice", "<a>\n<b c='1' c='2'/></a>", "line 2, column 1: attribute c of <b> is given twice"},
		{"unquoted", "<a>\n<b c=1/></a>", "line 2, column 7: unquoted or missing attribute value"},
		{"entity", "<a>&bomb;</a>", "line 1, column 10: invalid character entity"},
		{"doctype", "<!DOCTYPE a [<!ENTITY x 'y'>]>\n<a/>", "line 1, column 1: document type declarations are not accepted"},
		{"prefix", "<a>\n  <x:b/></a>", "line 2, column 3: namespace prefix x of <x:b> is not declared"},
		{"prefix closed", "<a><x:b xmlns:x='u'/><x:b/></a>", "line 1, column 22: namespace prefix x of <x:b> is not declared"},
		{"attribute prefix", "<a x:b='1'/>", "namespace prefix x of attribute x:b in <a> is not declared"},
		{"control character", "<a>\x01</a>", "illegal character code U+0001"},
		{"utf-8", "<a>\xff</a>", "invalid UTF-8"},
		{"encoding", "<?xml version='1.0' encoding='latin1'?><a/>", "encoding \"latin1\""},
		{"depth", strings.Repeat("<a>", MaxDepth+1), "nested deeper than 64"},
		{"attributes", "<a " + manyAttrs() + "/>", "more than 256 attributes"},
		{"elements", "<a>" + strings.Repeat("<b/>", MaxElements) + "</a>", "more than 50000 elements"},
		{"size", "<a>" + strings.Repeat(" ", MaxSize) + "</a>", "larger than the limit"},
		{"truncated", "<a><b c='", "unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if !virterr.Is(err, virterr.XMLError) {
				t.Errorf("code %v", virterr.As(err).Code)
			}
		})
	}
}

func manyAttrs() string {
	var b strings.Builder
	for i := range MaxAttrs + 1 {
		fmt.Fprintf(&b, "a%d='' ", i)
	}
	return b.String()
}

func TestPositions(t *testing.T) {
	doc, err := Parse([]byte("<a>\n  <b>\n    <c/></b>\n</a>"))
	if err != nil {
		t.Fatal(err)
	}
	c := doc.Root.Child("b", "c")
	if c.Line != 3 || c.Col != 5 || c.Path() != "a/b/c" {
		t.Errorf("line %d column %d path %s", c.Line, c.Col, c.Path())
	}
	if err := c.Errorf(virterr.ConfigUnsupported, "no %s", "c"); err.Error() != "unsupported configuration: line 3, column 5: no c" {
		t.Error(err)
	}
}

func TestEdit(t *testing.T) {
	doc, err := Parse([]byte("<a>\n</a>"))
	if err != nil {
		t.Fatal(err)
	}
	root := doc.Root
	root.Append(New("c", "x", "1"))
	root.InsertAt(0, NewText("b", "t"))
	root.Ensure("c").SetAttr("y", "2")
	root.Ensure("c").RemoveAttr("x")
	if got, want := doc.String(), "<a>\n  <b>t</b>\n  <c y='2'/>\n</a>\n"; got != want {
		t.Errorf("got %q want %q", got, want)
	}
	copied := doc.Clone()
	root.Child("b").Replace(New("d"))
	root.Child("c").Remove()
	if got, want := doc.String(), "<a>\n  <d/>\n</a>\n"; got != want {
		t.Errorf("got %q want %q", got, want)
	}
	if got, want := copied.String(), "<a>\n  <b>t</b>\n  <c y='2'/>\n</a>\n"; got != want {
		t.Errorf("copy changed: %q want %q", got, want)
	}
	if root.Child("d").Parent() != root || copied.Root.Child("b").Parent() != copied.Root {
		t.Error("parents wrong")
	}
	if (*Node)(nil).Child("x").Attr("y") != "" || (*Node)(nil).Trimmed() != "" {
		t.Error("lookups on nil must chain")
	}
}

// Whatever parses must print as something that parses to the same tree.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"<a/>", "<a b='c'>t<!--x--><b/></a>", "<d xmlns:q='u'><metadata><q:x a='1'/></metadata></d>",
		"<a>\n <b> </b>\n</a>", "<a>x<![CDATA[<]]></a>", "<?xml version='1.0'?><a><?p i?></a>", "<a xmlns='u'><b xmlns=''/></a>",
		"<a>&#13;&amp;&lt;</a>", "<!DOCTYPE a><a/>", "<a:b xmlns:a='x' a:c='d'/>", "<a><!----></a>", "<a>\x00</a>",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		doc, err := Parse(in)
		if err != nil {
			if !virterr.Is(err, virterr.XMLError) {
				t.Fatalf("not an XML error: %v", err)
			}
			return
		}
		out := doc.String()
		again, err := Parse([]byte(out))
		if err != nil {
			t.Fatalf("%q printed as %q: %v", in, out, err)
		}
		if !again.Equal(doc) {
			t.Fatalf("%q printed as %q reads as %q", in, out, again.String())
		}
		if second := again.String(); second != out {
			t.Fatalf("printing is not stable: %q then %q", out, second)
		}
	})
}
