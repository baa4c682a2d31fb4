package manager

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"virtd/domain/xmltree"
	"virtd/driver/fake"
)

// A running domain uses its images and those below them, whatever the path; one that is off uses none.
func TestImageUsers(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	dir := t.TempDir()
	image, link, other := filepath.Join(dir, "image"), filepath.Join(dir, "link"), filepath.Join(dir, "other")
	for _, path := range []string{image, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(image, link); err != nil {
		t.Fatal(err)
	}
	d, err := f.m.Define(context.Background(), strings.Replace(testXML("a", ""), "/img/a.raw", link, 1), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.m.ImageUsers(image); len(got) != 0 {
		t.Errorf("%v use an image while they are off", got)
	}
	if err := d.Start(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	if got := f.m.ImageUsers(image); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%v use the image", got)
	}
	if got := append(f.m.ImageUsers(other), f.m.ImageUsers(filepath.Join(dir, "none"))...); len(got) != 0 {
		t.Errorf("%v use another", got)
	}
}

func TestChainUsesImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := xmltree.Parse([]byte("<disk type='file'><source file='/top'/><backingStore type='file'><format type='qcow2'/><source file='/middle'/>" +
		"<backingStore type='file'><format type='raw'/><source file='" + path + "'/><backingStore/></backingStore></backingStore></disk>"))
	if err != nil {
		t.Fatal(err)
	}
	if !usesImage(doc.Root, "/other/name", st) {
		t.Error("an image at the end of a chain is not found")
	}
	doc.Root.RemoveAll("backingStore")
	if usesImage(doc.Root, "/other/name", st) {
		t.Error("an image that is not in a chain is found")
	}
}
