package storage

import (
	"fmt"
	"strings"
	"syscall"

	"virtd/domain"
	"virtd/domain/xmltree"
	"virtd/hypervisor/block/qcow2"
	"virtd/virterr"
)

// defaultVolumeMode is what a volume's file is made with when its XML does not say.
const defaultVolumeMode = 0o600

// request is what the XML of a volume to be made says.
type request struct {
	name       string
	capacity   uint64
	allocation uint64 // not more than capacity; bytes to reserve on disk
	perms      permissions
	format     string         // raw or qcow2
	qcow2      qcow2.Settings // of qcow2, but for Size
	backing    string         // absolute path of qcow2's backing file, "" for none
	snapshotOf string         // path of the logical volume that it is a snapshot of, "" for none
}

// volumeWords is the vocabulary of a volume's document, as poolWords is that of a pool's. Words about formats that can hold
// more than data come with their own reason.
var volumeWords = map[string]string{
	"volume":      " name key source capacity allocation physical target backingStore ",
	"target":      " path format permissions timestamps compat nocow clusterSize features encryption ",
	"permissions": " mode owner group label ",
}

// parseVolume reads the XML of a volume to be made in a pool of a type. Where it is a copy of another the capacity may be missing.
func parseVolume(kind, text string, copyOf *image) (request, error) {
	var r request
	doc, err := xmltree.Parse([]byte(text))
	if err != nil {
		return r, err
	}
	root := doc.Root
	if !root.Is("volume") {
		return r, malformed(root, "unexpected root element <%s>, expecting <volume>", root.Name)
	}
	if t := root.Attr("type"); t != "" && t != volumeType(kind) {
		return r, unsupported(root, "volumes of type '%s' are not supported in a pool of type '%s'; there is type '%s'", t, kind, volumeType(kind))
	}
	if err := onlyWords(root, volumeWords); err != nil {
		return r, err
	}
	if r.name = root.Child("name").Trimmed(); r.name == "" {
		return r, malformed(root, "missing volume name element")
	}
	if err := nameError(r.name); err != nil {
		return r, err
	}
	if err := checkVolumeTarget(root); err != nil {
		return r, err
	}
	if kind == kindLogical {
		err = r.readLogical(root)
	} else {
		err = r.readFormat(root)
	}
	if err != nil {
		return r, err
	}
	if r.perms, err = readPermissions(root.Child("target", "permissions")); err != nil {
		return r, err
	}
	return r, r.readSizes(root, copyOf)
}

func (r *request) readSizes(root *xmltree.Node, copyOf *image) (err error) {
	capacity := root.Child("capacity")
	if capacity == nil && copyOf == nil && r.backing == "" {
		return malformed(root, "missing capacity element")
	}
	if capacity != nil {
		if r.capacity, err = readBytes(capacity); err != nil {
			return err
		}
	}
	if copyOf != nil {
		r.capacity = max(r.capacity, copyOf.capacity) // libvirt copies everything whatever the document says
	}
	if r.capacity > 1<<62 {
		return malformed(root, "capacity of %d bytes is larger than any file can be", r.capacity)
	}
	r.allocation = r.capacity
	if a := root.Child("allocation"); a != nil {
		if r.allocation, err = readBytes(a); err != nil {
			return err
		}
		r.allocation = min(r.allocation, r.capacity)
	}
	return nil
}

// volumeType is what XML calls the volumes of a type of pool.
func volumeType(kind string) string {
	if kind == kindLogical {
		return "block"
	}
	return "file"
}

// checkVolumeTarget refuses what no file of ours can be.
func checkVolumeTarget(root *xmltree.Node) error {
	target := root.Child("target")
	if e := target.Child("encryption"); e != nil {
		return unsupported(e, "encrypted volumes are not supported; encrypt inside the guest, or the filesystem of the pool")
	}
	if target.Child("nocow") != nil {
		return unsupported(target.Child("nocow"), "<nocow> is not supported; set it on the pool's directory (chattr +C), "+
			"from which new files have it")
	}
	return nil
}

// readBytes reads a size; without unit it is in bytes.
func readBytes(n *xmltree.Node) (uint64, error) {
	unit := n.Attr("unit")
	if unit == "" {
		unit = "bytes"
	}
	v, err := domain.ParseSize(n.Trimmed(), unit)
	if err != nil {
		return 0, malformed(n, "malformed %s element: %s", n.Name, virterr.As(err).Message)
	}
	return v, nil
}

// xml is the volume's document in libvirt's form.
func (v Volume) xml(im image) string {
	kind := "file"
	if im.stat.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		kind = "block"
	}
	root := xmltree.New("volume", "type", kind)
	root.Append(xmltree.NewText("name", v.Name))
	root.Append(xmltree.NewText("key", v.Key))
	im.appendExtents(root)
	appendSize(root, "capacity", im.capacity)
	appendSize(root, "allocation", im.allocation)
	appendSize(root, "physical", im.physical)
	target := root.Append(xmltree.New("target"))
	target.Append(xmltree.NewText("path", v.Path))
	if kind == "file" {
		target.Append(xmltree.New("format", "type", im.format))
	}
	permissions{mode: int(im.stat.Mode & 0o7777), owner: int(im.stat.Uid), group: int(im.stat.Gid)}.append(target)
	times := target.Append(xmltree.New("timestamps"))
	for _, t := range []struct {
		name string
		at   syscall.Timespec
	}{{"atime", im.stat.Atim}, {"mtime", im.stat.Mtim}, {"ctime", im.stat.Ctim}} {
		times.Append(xmltree.NewText(t.name, fmt.Sprintf("%d.%09d", t.at.Sec, t.at.Nsec)))
	}
	if q := im.qcow2; q != nil {
		q.append(target)
	}
	if im.backing != "" {
		b := root.Append(xmltree.New("backingStore"))
		b.Append(xmltree.NewText("path", strings.ToValidUTF8(im.backing, "?")))
		if im.backingType != "" {
			b.Append(xmltree.New("format", "type", strings.ToValidUTF8(im.backingType, "?")))
		}
	}
	return root.String()
}

// appendExtents says where on its physical volumes a logical volume is.
func (im *image) appendExtents(root *xmltree.Node) {
	if len(im.extents) == 0 {
		return
	}
	source := root.Append(xmltree.New("source"))
	for _, e := range im.extents {
		dev := source.Append(xmltree.New("device", "path", e.path))
		for _, r := range e.ranges {
			dev.Append(xmltree.New("extent", "start", fmt.Sprint(r[0]), "end", fmt.Sprint(r[1])))
		}
	}
}

func (q *qcow2Header) append(target *xmltree.Node) {
	compat := "0.10"
	if q.version == 3 {
		compat = "1.1"
	}
	target.Append(xmltree.NewText("compat", compat))
	target.Append(xmltree.NewText("clusterSize", fmt.Sprint(uint64(1)<<q.clusterBits), "unit", "B"))
	if q.version < 3 {
		return
	}
	features := target.Append(xmltree.New("features"))
	if q.compatible&qcow2LazyRefcounts != 0 {
		features.Append(xmltree.New("lazy_refcounts"))
	}
	if q.incompatible&qcow2ExtendedL2 != 0 {
		features.Append(xmltree.New("extended_l2"))
	}
}
