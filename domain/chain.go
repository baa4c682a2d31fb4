package domain

import (
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// BackingImage is an image that is read where the one above it has no data.
type BackingImage struct {
	Path   string
	Format string // raw, qcow2
	Block  bool   // a block device
}

// readChain checks the <backingStore> that a document gives a disk. virtd takes chains from the images' headers and
// checks at start that they are what the document says.
func (d *Definition) readChain(disk *xmltree.Node) error {
	b := disk.Child("backingStore")
	if d.opts.Stored || b == nil || len(b.Elements())+len(b.Attrs) == 0 {
		return nil
	}
	if t := disk.Child("driver").Attr("type"); t == "raw" || t == "" {
		return b.Errorf(virterr.ConfigUnsupported, "a raw image has no backing store")
	}
	for ; b != nil && len(b.Elements())+len(b.Attrs) > 0; b = b.Child("backingStore") {
		format := b.Child("format").Attr("type")
		switch t := b.Attr("type"); {
		case t != "file" && t != "block" && t != "":
			return b.Errorf(virterr.ConfigUnsupported, "a backing store of type '%s' is not supported; there are 'file' and 'block'", t)
		case format == "":
			return b.Errorf(virterr.XMLError, "missing disk backing store format")
		case format != "raw" && format != "qcow2":
			return b.Errorf(virterr.ConfigUnsupported, "a backing store of format '%s' is not supported; there are 'raw' and 'qcow2'", format)
		case chainPath(b) == "":
			return b.Errorf(virterr.XMLError, "missing disk backing store source")
		}
	}
	return nil
}

func chainPath(b *xmltree.Node) string {
	if b.Attr("type") == "block" {
		return b.Child("source").Attr("dev")
	}
	return b.Child("source").Attr("file")
}

// DiskChain returns what a disk's XML says of the images below its own. known is false where it says nothing; a chain
// that ends at once is known and empty.
func DiskChain(disk *xmltree.Node) (chain []BackingImage, known bool) {
	b := disk.Child("backingStore")
	known = b != nil
	for ; b != nil && len(b.Elements())+len(b.Attrs) > 0; b = b.Child("backingStore") {
		chain = append(chain, BackingImage{Path: chainPath(b), Format: b.Child("format").Attr("type"), Block: b.Attr("type") == "block"})
	}
	return chain, known
}

// setChains shows in a running domain's disks which images they are made of. The numbers name nodes of the chains.
func setChains(devices *xmltree.Node, chains map[string][]BackingImage) {
	index := 0
	next := func() string {
		index++
		return strconv.Itoa(index)
	}
	for _, disk := range devices.All("disk") {
		chain, ok := chains[disk.Child("alias").Attr("name")]
		if !ok {
			continue
		}
		disk.Ensure("source").SetAttr("index", next())
		disk.RemoveAll("backingStore")
		at := disk
		for _, c := range chain {
			kind, attr := "file", "file"
			if c.Block {
				kind, attr = "block", "dev"
			}
			b := xmltree.New("backingStore", "type", kind, "index", next())
			b.Append(xmltree.New("format", "type", c.Format))
			b.Append(xmltree.New("source", attr, c.Path))
			at.Append(b)
			at = b
		}
		at.Append(xmltree.New("backingStore"))
	}
}

// stripChain removes what setChains has added.
func stripChain(disk *xmltree.Node) {
	source := disk.Child("source")
	if source == nil || source.Attr("index") == "" {
		return
	}
	source.RemoveAttr("index")
	disk.RemoveAll("backingStore")
}
