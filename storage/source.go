package storage

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"virtd/domain/xmltree"
)

// Types of pools.
const (
	kindDir     = "dir"
	kindFS      = "fs"
	kindLogical = "logical"
)

// Formats of sources.
const (
	formatAuto = "auto" // the file system's superblock says it
	formatLVM2 = "lvm2"
)

// fileSystems are the formats of a source of type fs: libvirt's words, and what mount(2) calls them.
var fileSystems = map[string]string{
	formatAuto: "", "ext2": "ext2", "ext3": "ext3", "ext4": "ext4", "ufs": "ufs", "iso9660": "iso9660", "udf": "udf", "gfs": "gfs",
	"gfs2": "gfs2", "vfat": "vfat", "hfs+": "hfsplus", "xfs": "xfs", "ocfs2": "ocfs2", "vmfs": "vmfs",
}

// fsFormats are the words of fileSystems in libvirt's order.
var fsFormats = []string{formatAuto, "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+", "xfs", "ocfs2", "vmfs"}

// fsNamespace is that of <fs:mount_opts>.
const fsNamespace = "http://libvirt.org/schemas/storagepool/fs/1.0"

// source is what a pool is made of.
type source struct {
	devices []string // absolute paths: one of type fs, the physical volumes of type logical
	real    []string // the same without links, when the document was read
	name    string   // of the volume group
	format  string
	options []string // of the mount
}

// sourceWords are the elements of <source> that a type of pool has a use for. Those that libvirt drops without a word, as old
// command lines give them, are in droppedWords; any other would change what the pool is.
var (
	sourceWords  = map[string][]string{kindFS: {"device", "format"}, kindLogical: {"device", "format", "name"}}
	droppedWords = []string{"host", "dir", "name", "vendor", "product"}
)

// readSource reads <source> and what belongs to it.
func (d *definition) readSource(root *xmltree.Node) error {
	words := sourceWords[d.kind]
	n := root.Child("source")
	if words == nil {
		return nil // a directory has none
	}
	for _, c := range n.Elements() {
		if !slices.Contains(words, c.Name.String()) && !slices.Contains(droppedWords, c.Name.String()) {
			return unsupported(c, "<%s> in the <source> of a pool of type '%s' is not supported; remove it", c.Name, d.kind)
		}
	}
	for _, dev := range n.All("device") {
		path := dev.Attr("path")
		if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n\x00") {
			return malformed(dev, "source device path '%s' is not absolute", path)
		}
		d.source.devices = append(d.source.devices, filepath.Clean(path))
		d.source.real = append(d.source.real, canonical(path))
	}
	if d.source.format = n.Child("format").Attr("type"); d.kind == kindLogical {
		return d.readGroup(root, n)
	}
	return d.readDevice(root, n)
}

// readDevice reads the source of type fs.
func (d *definition) readDevice(root, n *xmltree.Node) error {
	switch len(d.source.devices) {
	case 0:
		return malformed(root, "missing storage pool source device path")
	case 1:
	default:
		return malformed(n, "a pool of type 'fs' has one source device, not %d", len(d.source.devices))
	}
	if d.source.format == "" {
		d.source.format = formatAuto
	}
	if _, known := fileSystems[d.source.format]; !known {
		return malformed(n.Child("format"), "unknown pool format type %s", d.source.format)
	}
	return d.readMountOptions(root)
}

// groupName is what LVM allows.
var groupName = regexp.MustCompile(`^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*$`)

// readGroup reads the source of type logical: without a name the volume group is called as the pool.
func (d *definition) readGroup(root, n *xmltree.Node) error {
	if d.source.name = n.Child("name").Trimmed(); d.source.name == "" {
		d.source.name = d.name
	}
	if !groupName.MatchString(d.source.name) || d.source.name == "." || d.source.name == ".." || len(d.source.name) > 127 {
		return malformed(root, "'%s' cannot be the name of a volume group: LVM allows letters, digits and + _ . -, up to 127 of them", d.source.name)
	}
	if f := d.source.format; f != "" && f != formatLVM2 && f != "unknown" {
		return malformed(n.Child("format"), "unknown pool format type %s", f)
	}
	d.source.format = formatLVM2
	return nil
}

// readMountOptions reads <fs:mount_opts>.
func (d *definition) readMountOptions(root *xmltree.Node) error {
	for _, opts := range root.Elements() {
		if !isMountOptions(opts) {
			continue
		}
		for _, o := range opts.Elements() {
			name := o.Attr("name")
			if uri, _ := o.Namespace(o.Name.Prefix); o.Name.Local != "option" || uri != fsNamespace {
				return malformed(o, "<%s> in <%s> is not known; there is <option name='...'/>", o.Name, opts.Name)
			}
			if err := checkMountOption(name); err != nil {
				return malformed(o, "%s", err)
			}
			d.source.options = append(d.source.options, name)
		}
	}
	return nil
}

func isMountOptions(n *xmltree.Node) bool {
	uri, _ := n.Namespace(n.Name.Prefix)
	return n.Name.Local == "mount_opts" && uri == fsNamespace && n.Name.Prefix != ""
}

// xml prints <source>.
func (s source) xml(kind string) *xmltree.Node {
	if kind == kindDir {
		return xmltree.NewText("source", "\n  ") // as libvirt prints it
	}
	n := xmltree.New("source")
	for _, path := range s.devices {
		n.Append(xmltree.New("device", "path", path))
	}
	if kind == kindLogical {
		n.Append(xmltree.NewText("name", s.name))
	}
	n.Append(xmltree.New("format", "type", s.format))
	return n
}

// appendOptions prints the mount's options.
func (s source) appendOptions(root *xmltree.Node) {
	if len(s.options) == 0 {
		return
	}
	root.Attrs = append(root.Attrs, xmltree.Attr{Name: xmltree.Name{Prefix: "xmlns", Local: "fs"}, Value: fsNamespace})
	opts := xmltree.New("mount_opts")
	opts.Name.Prefix = "fs"
	for _, name := range s.options {
		o := xmltree.New("option", "name", name)
		o.Name.Prefix = "fs"
		opts.Append(o)
	}
	root.Append(opts)
}

// sharesSource reports whether two pools would be made of the same thing.
func (d *definition) sharesSource(o *definition) bool {
	if d.kind == kindLogical && o.kind == kindLogical && d.source.name == o.source.name {
		return true
	}
	return slices.ContainsFunc(d.source.real, func(path string) bool { return slices.Contains(o.source.real, path) })
}

// canonical is a path without links, or the path itself where there is nothing.
func canonical(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}
