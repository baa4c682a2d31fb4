package storage

import (
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Formats of volumes that can be made.
const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

// readFormat reads what kind of image a volume shall be.
func (r *request) readFormat(root *xmltree.Node) error {
	target, backing := root.Child("target"), root.Child("backingStore")
	if r.format = target.Child("format").Attr("type"); r.format == "" {
		r.format = formatRaw
	}
	path := backing.Child("path").Trimmed()
	switch r.format {
	case formatRaw:
		if path != "" {
			return fromStorage(backing.Errorf(virterr.NoSupport, "backing storage not supported for raw volumes"))
		}
		return nil
	case formatQcow2:
	default:
		return unsupported(target.Child("format"), "creating volumes of format '%s' is not supported; there are raw and qcow2",
			r.format)
	}
	if err := r.readQcow2(target); err != nil || path == "" {
		return err
	}
	r.qcow2.BackingFile, r.qcow2.BackingFormat = path, backing.Child("format").Attr("type")
	if r.qcow2.BackingFormat == "" {
		r.qcow2.BackingFormat = formatRaw // which is what libvirt takes it for, whatever is in the file
	}
	if f := r.qcow2.BackingFormat; f != formatRaw && f != formatQcow2 {
		return unsupported(backing.Child("format"), "a backing store of format '%s' is not supported; there are raw and qcow2", f)
	}
	r.backing = path
	return nil
}

// readQcow2 reads what only a qcow2 image has.
func (r *request) readQcow2(target *xmltree.Node) error {
	switch compat := target.Child("compat"); compat.Trimmed() {
	case "", "1.1":
		r.qcow2.Version = 3
	case "0.10":
		r.qcow2.Version = 2
	default:
		return unsupported(compat, "compat level '%s' is not supported; there are 0.10 and 1.1", compat.Trimmed())
	}
	for _, f := range target.Child("features").Elements() {
		switch f.Name.Local {
		case "lazy_refcounts":
			r.qcow2.LazyRefcounts = true
		case "extended_l2":
			r.qcow2.ExtendedL2 = true
		default:
			return malformed(f, "unsupported feature %s", f.Name)
		}
		if r.qcow2.Version == 2 {
			return unsupported(f, "Feature %s not supported with compat level 0.10", f.Name)
		}
	}
	n := target.Child("clusterSize")
	if n == nil {
		return nil
	}
	size, err := readBytes(n)
	if err != nil {
		return err
	}
	if size < 512 || size > 2<<20 || size&(size-1) != 0 || r.qcow2.ExtendedL2 && size < 16<<10 {
		return unsupported(n, "a cluster size of %d bytes is not supported; there are powers of two from 512 bytes "+
			"(16 KiB with extended_l2) to 2 MiB", size)
	}
	r.qcow2.ClusterSize = int64(size)
	return nil
}

// qcow2Error tells what a user can do about an error of package qcow2.
func qcow2Error(what, path string, err error) error {
	code := virterr.SystemError
	text := err.Error()
	switch {
	case strings.Contains(text, "not supported"):
		code = virterr.ConfigUnsupported
	case strings.Contains(text, "corrupt image"):
		code = virterr.OperationFailed
	}
	return failure(code, "cannot %s '%s': %w", what, path, virterr.Strerror(err))
}
