package domain

import (
	"strconv"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// identity reads and completes what names and sizes a domain.
func (d *Definition) identity() error {
	for _, step := range []func(root *xmltree.Node) error{
		d.readName, d.readUUID, d.readTitle, d.readMemory, d.readVCPU, d.readTuning,
	} {
		if err := step(d.doc.Root); err != nil {
			return err
		}
	}
	return nil
}

func (d *Definition) readName(root *xmltree.Node) error {
	n := root.Child("name")
	if n == nil {
		return root.Errorf(virterr.NoName, "missing name: <domain> needs a <name>")
	}
	d.name = n.Content()
	switch {
	case strings.TrimSpace(d.name) == "":
		return n.Errorf(virterr.XMLError, "<name> must not be empty")
	case strings.ContainsRune(d.name, '/'):
		return n.Errorf(virterr.XMLError, "name %s cannot contain '/'", d.name)
	case strings.ContainsAny(d.name, "\n\r"):
		return n.Errorf(virterr.XMLError, "name %q cannot contain a line end", d.name)
	case len(d.name) > 255:
		return n.Errorf(virterr.XMLError, "name of %d bytes is longer than 255", len(d.name))
	}
	return nil
}

func (d *Definition) readUUID(root *xmltree.Node) error {
	n := root.Child("uuid")
	if n == nil {
		id, err := uuid.NewRandom()
		if err != nil {
			return virterr.New(virterr.InternalError, "cannot generate a UUID for domain %q: %w", d.name, err)
		}
		d.uuid = id
		root.Append(xmltree.NewText("uuid", id.String()))
		return nil
	}
	id, err := parseUUID(n.Trimmed())
	if err != nil {
		return n.Errorf(virterr.XMLError, "malformed uuid element '%s'", n.Trimmed())
	}
	d.uuid = id
	n.SetContent(id.String())
	return nil
}

var uuidSeparators = strings.NewReplacer("-", "", " ", "")

// parseUUID reads what libvirt reads: 32 hexadecimal digits with hyphens or spaces anywhere between them.
func parseUUID(s string) (uuid.UUID, error) {
	plain := uuidSeparators.Replace(s)
	if len(plain) != 32 {
		return uuid.UUID{}, strconv.ErrSyntax
	}
	return uuid.Parse(plain)
}

func (d *Definition) readTitle(root *xmltree.Node) error {
	if n := root.Child("title"); n != nil && strings.ContainsRune(n.Content(), '\n') {
		return n.Errorf(virterr.XMLError, "domain title can't contain newlines")
	}
	return nil
}

func (d *Definition) readMemory(root *xmltree.Node) (err error) {
	n := root.Child("memory")
	if n == nil {
		return root.Errorf(virterr.XMLError, "missing memory: <domain> needs <memory unit='MiB'>")
	}
	if d.memory, err = readSize(n); err != nil {
		return err
	}
	if d.memory == 0 {
		return n.Errorf(virterr.XMLError, "Memory size must be specified via <memory>, and not be 0")
	}
	current := root.Child("currentMemory")
	if current == nil {
		current = root.Append(xmltree.New("currentMemory"))
		setSize(current, d.memory)
	}
	if d.curMem, err = readSize(current); err != nil {
		return err
	}
	if d.curMem == 0 || d.curMem > d.memory { // libvirt does the same without a word
		d.curMem = d.memory
		setSize(current, d.memory)
	}
	return nil
}

func (d *Definition) readTuning(root *xmltree.Node) error {
	seen := map[string]bool{}
	for _, pin := range root.Child("cputune").All("vcpupin") {
		vcpu, set := pin.Attr("vcpu"), pin.Attr("cpuset")
		if n, err := strconv.Atoi(vcpu); err != nil || n >= len(d.vcpus) {
			return pin.Errorf(virterr.XMLError, "vcpupin for vcpu '%s', but the domain has %d", vcpu, len(d.vcpus))
		}
		if seen[vcpu] {
			return pin.Errorf(virterr.XMLError, "duplicate vcpupin for vcpu '%s'", vcpu)
		}
		seen[vcpu] = true
		if _, err := ParseCPUSet(set); err != nil {
			return pin.Errorf(virterr.XMLError, "vcpupin of vcpu %s: %s", vcpu, virterr.As(err).Message)
		}
	}
	if pin := root.Child("cputune", "emulatorpin"); pin != nil && !d.opts.Stored {
		set := pin.Attr("cpuset")
		if set == "" {
			return pin.Errorf(virterr.XMLError, "missing required attribute 'cpuset' in element 'emulatorpin'")
		}
		if _, err := ParseCPUSet(set); err != nil {
			return pin.Errorf(virterr.XMLError, "emulatorpin: %s", virterr.As(err).Message)
		}
	}
	return nil
}
