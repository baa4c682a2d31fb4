package storage

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// defaultPoolMode is what a pool's directory is made with when its XML does not say: others may pass, not look.
const defaultPoolMode = 0o711

// permissions are those of XML; -1 and "" stand for what is not said.
type permissions struct {
	mode, owner, group int
	label              string
}

func noPermissions() permissions { return permissions{mode: -1, owner: -1, group: -1} }

// definition is what a pool's XML says. It is immutable.
type definition struct {
	kind   string // dir, fs, logical
	uuid   uuid.UUID
	name   string
	source source
	target string
	perms  permissions
}

// poolWords is the vocabulary of a pool's document: the children of each element. An element that is not here would change
// what the pool is, so it is refused rather than dropped. Those without children here are not looked into here: readSource
// does, and of a directory's libvirt too drops what old command lines give (pool-define-as NAME dir - - - - TARGET).
var poolWords = map[string]string{
	"pool":        " name uuid capacity allocation available source target ",
	"target":      " path permissions timestamps ",
	"permissions": " mode owner group label ",
}

// parsePool reads a pool's XML. A UUID that is missing is made up.
func parsePool(text string) (*definition, error) {
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	root := doc.Root
	if !root.Is("pool") {
		return nil, malformed(root, "unexpected root element <%s>, expecting <pool>", root.Name)
	}
	kind := root.Attr("type")
	switch kind {
	case kindDir, kindFS, kindLogical:
	case "":
		return nil, malformed(root, "missing storage pool type; write <pool type='dir'>")
	default:
		return nil, unsupported(root, "storage pools of type '%s' are not supported; there are dir (a directory, which may be on any "+
			"mounted filesystem), fs (a block device with a filesystem) and logical (an LVM volume group)", kind)
	}
	if err := onlyWords(root, poolWords); err != nil {
		return nil, err
	}
	named := root.Child("name")
	if named.Trimmed() == "" && kind == kindLogical { // as libvirt has it
		named = root.Child("source", "name")
	}
	d := &definition{kind: kind, name: named.Trimmed(), perms: noPermissions()}
	if d.name == "" {
		return nil, malformed(root, "missing pool source name element")
	}
	if strings.ContainsAny(d.name, "/\n") || d.name == "." || d.name == ".." {
		return nil, malformed(named, "name %s cannot contain '/'", d.name)
	}
	if d.uuid, err = readUUID(root.Child("uuid")); err != nil {
		return nil, err
	}
	if err := d.readSource(root); err != nil {
		return nil, err
	}
	if kind == kindLogical {
		d.target = "/dev/" + d.source.name // whatever the document says, as with libvirt
	} else if d.target, err = readTarget(root); err != nil {
		return nil, err
	}
	if d.perms, err = readPermissions(root.Child("target", "permissions")); err != nil {
		return nil, err
	}
	return d, nil
}

func readUUID(n *xmltree.Node) (uuid.UUID, error) {
	if n == nil || n.Trimmed() == "" {
		return uuid.New(), nil
	}
	id, err := uuid.Parse(n.Trimmed())
	if err != nil {
		return id, malformed(n, "malformed uuid element")
	}
	return id, nil
}

func readTarget(root *xmltree.Node) (string, error) {
	n := root.Child("target", "path")
	if n == nil || n.Trimmed() == "" {
		return "", malformed(root, "missing storage pool target path")
	}
	path := n.Trimmed()
	if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n") {
		return "", malformed(n, "target path '%s' is not absolute", path)
	}
	return filepath.Clean(path), nil
}

// readPermissions reads a permissions element; nil says nothing.
func readPermissions(n *xmltree.Node) (permissions, error) {
	p := noPermissions()
	if n == nil {
		return p, nil
	}
	if m := n.Child("mode"); m != nil {
		v, err := strconv.ParseUint(m.Trimmed(), 8, 32)
		if err != nil || v > 0o7777 {
			return p, malformed(m, "malformed octal mode")
		}
		p.mode = int(v)
	}
	for _, f := range []struct {
		name string
		to   *int
	}{{"owner", &p.owner}, {"group", &p.group}} {
		if e := n.Child(f.name); e != nil && e.Trimmed() != "-1" {
			v, err := strconv.ParseUint(e.Trimmed(), 10, 31)
			if err != nil {
				return p, malformed(e, "malformed %s element", f.name)
			}
			*f.to = int(v)
		}
	}
	p.label = n.Child("label").Trimmed()
	return p, nil
}

// onlyWords refuses elements that are not in the vocabulary.
func onlyWords(n *xmltree.Node, words map[string]string) error {
	children, known := words[n.Name.Local]
	if !known {
		return nil
	}
	for _, c := range n.Elements() {
		if n.Is("pool") && n.Attr("type") == kindFS && isMountOptions(c) {
			continue
		}
		if !strings.Contains(children, " "+c.Name.String()+" ") {
			return unsupported(c, "<%s> in <%s> is not supported; remove it", c.Name, n.Name)
		}
		if err := onlyWords(c, words); err != nil {
			return err
		}
	}
	return nil
}

// poolSizes are what XML says of an active pool's filesystem, in bytes.
type poolSizes struct{ capacity, allocation, available uint64 }

// xml is the pool's document in libvirt's form.
func (d *definition) xml(sizes poolSizes, perms permissions) string {
	root := xmltree.New("pool", "type", d.kind)
	root.Append(xmltree.NewText("name", d.name))
	root.Append(xmltree.NewText("uuid", d.uuid.String()))
	appendSize(root, "capacity", sizes.capacity)
	appendSize(root, "allocation", sizes.allocation)
	appendSize(root, "available", sizes.available)
	root.Append(d.source.xml(d.kind))
	target := root.Append(xmltree.New("target"))
	target.Append(xmltree.NewText("path", d.target))
	perms.append(target)
	d.source.appendOptions(root)
	return root.String()
}

func (p permissions) append(to *xmltree.Node) {
	if p == noPermissions() {
		return
	}
	n := to.Append(xmltree.New("permissions"))
	if p.mode >= 0 {
		n.Append(xmltree.NewText("mode", fmt.Sprintf("0%o", p.mode)))
	}
	if p.owner >= 0 {
		n.Append(xmltree.NewText("owner", strconv.Itoa(p.owner)))
	}
	if p.group >= 0 {
		n.Append(xmltree.NewText("group", strconv.Itoa(p.group)))
	}
	if p.label != "" {
		n.Append(xmltree.NewText("label", p.label))
	}
}

func appendSize(to *xmltree.Node, name string, bytes uint64) {
	to.Append(xmltree.NewText(name, strconv.FormatUint(bytes, 10), "unit", "bytes"))
}

// malformed is an error about a document that cannot be understood.
func malformed(n *xmltree.Node, format string, args ...any) error {
	return fromStorage(n.Errorf(virterr.XMLError, format, args...))
}

// unsupported is an error about a document that asks for what is not there.
func unsupported(n *xmltree.Node, format string, args ...any) error {
	return fromStorage(n.Errorf(virterr.ConfigUnsupported, format, args...))
}

func fromStorage(err error) error {
	e := *virterr.As(err)
	e.From = virterr.FromStorage
	return &e
}
