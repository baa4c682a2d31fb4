package secret

import (
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// UsageType says what a secret is for, with libvirt's numbers (virSecretUsageType).
type UsageType int

// The usage types.
const (
	UsageNone UsageType = iota
	UsageVolume
	UsageCeph
	UsageISCSI
	UsageTLS
	UsageVTPM
)

// usages are the types by number: their names, the element that holds the identity, and what messages call it.
var usages = []struct{ name, element, missing string }{
	UsageNone:   {"none", "", ""},
	UsageVolume: {"volume", "volume", "volume usage specified, but volume path is missing"},
	UsageCeph:   {"ceph", "name", "Ceph usage specified, but name is missing"},
	UsageISCSI:  {"iscsi", "target", "iSCSI usage specified, but target is missing"},
	UsageTLS:    {"tls", "name", "TLS usage specified, but name is missing"},
	UsageVTPM:   {"vtpm", "name", "vTPM usage specified, but name is missing"},
}

// String returns libvirt's name of the type.
func (u UsageType) String() string {
	if u < 0 || int(u) >= len(usages) {
		return "unknown"
	}
	return usages[u].name
}

// Definition is what a secret's document says. It is a value.
type Definition struct {
	UUID        uuid.UUID
	Description string
	Ephemeral   bool // kept in memory only
	Private     bool // the value is never told
	Usage       UsageType
	UsageID     string // the volume's path, or a name; "" for UsageNone
}

// failure is an error about secrets.
func failure(code virterr.Code, format string, args ...any) *virterr.Error {
	return virterr.NewFrom(virterr.FromSecret, code, format, args...)
}

// Parse reads a document. A missing UUID is made up.
func Parse(text string) (Definition, error) {
	var d Definition
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return d, err
	}
	root := doc.Root
	if !root.Is("secret") {
		return d, failure(virterr.XMLError, "unexpected root element <%s>, expecting <secret>", root.Name)
	}
	if d.Ephemeral, err = yes(root, "ephemeral"); err != nil {
		return d, err
	}
	if d.Private, err = yes(root, "private"); err != nil {
		return d, err
	}
	if id := root.Child("uuid").Trimmed(); id == "" {
		d.UUID = uuid.New()
	} else if d.UUID, err = uuid.Parse(id); err != nil {
		return d, failure(virterr.XMLError, "malformed uuid element '%s'", id)
	}
	d.Description = root.Child("description").Content()
	return d, d.readUsage(root.Child("usage"))
}

func yes(n *xmltree.Node, attr string) (bool, error) {
	switch v, ok := n.LookupAttr(attr); {
	case !ok, v == "no":
		return false, nil
	case v == "yes":
		return true, nil
	default:
		return false, failure(virterr.XMLError, "invalid value of '%s': '%s' is neither yes nor no", attr, v)
	}
}

func (d *Definition) readUsage(n *xmltree.Node) error {
	if n == nil {
		return nil
	}
	name, ok := n.LookupAttr("type")
	if !ok {
		return failure(virterr.XMLError, "unknown secret usage type")
	}
	for i, u := range usages {
		if u.name != name {
			continue
		}
		d.Usage = UsageType(i)
		if u.element == "" {
			return nil
		}
		if d.UsageID = n.Child(u.element).Content(); strings.TrimSpace(d.UsageID) == "" {
			return failure(virterr.XMLError, "%s", u.missing)
		}
		return nil
	}
	return failure(virterr.XMLError, "unknown secret usage type %s", name)
}

// XML returns the document as libvirt prints it.
func (d Definition) XML() string {
	yesno := map[bool]string{true: "yes", false: "no"}
	root := xmltree.New("secret", "ephemeral", yesno[d.Ephemeral], "private", yesno[d.Private])
	root.Append(xmltree.NewText("uuid", d.UUID.String()))
	if d.Description != "" {
		root.Append(xmltree.NewText("description", d.Description))
	}
	if d.Usage != UsageNone {
		u := usages[d.Usage]
		root.Append(xmltree.New("usage", "type", u.name)).Append(xmltree.NewText(u.element, d.UsageID))
	}
	return root.String()
}
