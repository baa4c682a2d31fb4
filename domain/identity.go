package domain

import (
	"strconv"
	"strings"

	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// MaxVCPUs is how many vCPUs one domain can have.
const MaxVCPUs = 64

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

func (d *Definition) readVCPU(root *xmltree.Node) error {
	n := root.Child("vcpu")
	if n == nil {
		n = root.Append(xmltree.NewText("vcpu", "1"))
	}
	count, err := strconv.ParseUint(n.Trimmed(), 10, 32)
	if err != nil || count == 0 {
		return n.Errorf(virterr.XMLError, "vCPU count must be an integer from 1 to %d, not '%s'", MaxVCPUs, n.Trimmed())
	}
	if count > MaxVCPUs {
		return n.Errorf(virterr.ConfigUnsupported, "%d vCPUs are more than the machine's limit of %d", count, MaxVCPUs)
	}
	d.vcpus, d.curCPU = int(count), int(count)
	n.SetContent(strconv.Itoa(d.vcpus))
	if n.Attr("placement") == "" {
		n.SetAttr("placement", "static")
	}
	if set := n.Attr("cpuset"); set != "" {
		if _, err := ParseCPUSet(set); err != nil {
			return n.Errorf(virterr.XMLError, "<vcpu cpuset='%s'>: %s", set, virterr.As(err).Message)
		}
	}
	if current, ok := n.LookupAttr("current"); ok {
		count, err := strconv.ParseUint(strings.TrimSpace(current), 10, 32)
		if err != nil || count == 0 {
			return n.Errorf(virterr.XMLError, "<vcpu current='%s'> must be an integer above 0", current)
		}
		if int(count) > d.vcpus {
			return n.Errorf(virterr.XMLError, "maxvcpus must not be less than current vcpus (%d < %d)", d.vcpus, count)
		}
		if d.curCPU = int(count); d.curCPU == d.vcpus {
			n.RemoveAttr("current")
		}
	}
	return d.readVCPUs(root.Child("vcpus"))
}

// readVCPUs checks that a list of single vCPUs, as libvirt prints it when some are offline, says what <vcpu current=>
// says: the first ones are online.
func (d *Definition) readVCPUs(list *xmltree.Node) error {
	for _, v := range list.All("vcpu") {
		id, err := strconv.Atoi(v.Attr("id"))
		if err != nil || id < 0 || id >= d.vcpus {
			return v.Errorf(virterr.XMLError, "vcpu id '%s' is not one of the domain's %d", v.Attr("id"), d.vcpus)
		}
		if enabled := v.Attr("enabled") != "no"; enabled != (id < d.curCPU) && !d.opts.Stored {
			return v.Errorf(virterr.ConfigUnsupported, "vcpu %d with enabled='%s' is not supported: the first %d vCPUs are the ones online",
				id, v.Attr("enabled"), d.curCPU)
		}
	}
	return nil
}

func (d *Definition) readTuning(root *xmltree.Node) error {
	seen := map[string]bool{}
	for _, pin := range root.Child("cputune").All("vcpupin") {
		vcpu, set := pin.Attr("vcpu"), pin.Attr("cpuset")
		if n, err := strconv.Atoi(vcpu); err != nil || n >= d.vcpus {
			return pin.Errorf(virterr.XMLError, "vcpupin for vcpu '%s', but the domain has %d", vcpu, d.vcpus)
		}
		if seen[vcpu] {
			return pin.Errorf(virterr.XMLError, "duplicate vcpupin for vcpu '%s'", vcpu)
		}
		seen[vcpu] = true
		if _, err := ParseCPUSet(set); err != nil {
			return pin.Errorf(virterr.XMLError, "vcpupin of vcpu %s: %s", vcpu, virterr.As(err).Message)
		}
	}
	return nil
}
