package domain

import (
	"math/bits"
	"regexp"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Limits of one virtio disk.
const (
	MaxDiskQueues    = 16
	MaxDiskQueueSize = 1024
	MaxDiskSerial    = 20 // VIRTIO_BLK_ID_BYTES, virtio 1.2 section 5.2.6
)

var (
	diskName   = regexp.MustCompile(`^(fd|hd|vd|sd|xvd|ubd)[a-z]{1,4}[0-9]*$`)
	serialText = regexp.MustCompile(`^[A-Za-z0-9_. +:/-]*$`)
)

func (d *Definition) readDisks(devices *xmltree.Node) error {
	targets := map[string]*xmltree.Node{}
	for _, disk := range devices.All("disk") {
		setDefault(disk, "type", "file")
		setDefault(disk, "device", "disk")
		if disk.Attr("type") == typeVhostUser {
			setDefault(disk, "snapshot", "no")
		}
		for _, step := range []func(*xmltree.Node) error{d.diskSource, d.diskTarget, d.diskDriver, d.diskDetails, d.diskIOTune} {
			if err := step(disk); err != nil {
				return err
			}
		}
		name := disk.Child("target").Attr("dev")
		if first := targets[name]; first != nil {
			return disk.Errorf(virterr.XMLError, "target '%s' duplicated for disk sources '%s' and '%s'",
				name, sourceText(first), sourceText(disk))
		}
		targets[name] = disk
	}
	return d.checkIOGroups(devices)
}

// DiskPath returns the path of a disk's image or block device; of a volume, "" before SetVolumes, and of a vhost-user disk
// always: its process has the image.
func DiskPath(disk *xmltree.Node) string {
	if DiskIsBlock(disk) {
		return disk.Child("source").Attr("dev")
	}
	return disk.Child("source").Attr("file")
}

// DiskIsBlock reports whether a disk's image is a block device; of a volume, false before SetVolumes.
func DiskIsBlock(disk *xmltree.Node) bool {
	_, dev := disk.Child("source").LookupAttr("dev")
	return disk.Attr("type") == "block" || disk.Attr("type") == typeVolume && dev
}

// sourceText names what a disk is made of in an error.
func sourceText(disk *xmltree.Node) string {
	if source := disk.Child("source"); disk.Attr("type") == typeVolume {
		return source.Attr("pool") + "/" + source.Attr("volume")
	}
	if disk.Attr("type") == typeVhostUser {
		return disk.Child("source").Attr("path")
	}
	return DiskPath(disk)
}

func (d *Definition) diskSource(disk *xmltree.Node) error {
	source := disk.Child("source")
	if source != nil && !d.opts.Live {
		source.RemoveAttr("index") // number of a node in a running domain's image chain
	}
	if d.opts.Stored {
		return nil
	}
	if err := checkSource(disk, source); err != nil {
		return err
	}
	if policy := source.Attr("startupPolicy"); policy != "" && policy != "mandatory" {
		return source.Errorf(virterr.ConfigUnsupported, "startupPolicy='%s' is not supported: a disk without its image stops the start", policy)
	}
	return d.readChain(disk)
}

// checkSource refuses a source that cannot be what the disk's type says.
func checkSource(disk, source *xmltree.Node) error {
	if disk.Attr("type") == typeVhostUser {
		return nil // once the driver is known
	}
	if err := onlyVhostUser(source); err != nil {
		return err
	}
	if disk.Attr("type") == typeVolume {
		if source.Attr("pool") == "" || source.Attr("volume") == "" {
			return disk.Errorf(virterr.XMLError, "missing source: disk of type 'volume' needs <source pool= volume=>")
		}
		return nil
	}
	attr := map[string]string{"file": "file", "block": "dev"}[disk.Attr("type")]
	switch path := source.Attr(attr); {
	case path == "":
		return disk.Errorf(virterr.XMLError, "missing source: disk of type '%s' needs <source %s=>", disk.Attr("type"), attr)
	case path[0] != '/':
		return source.Errorf(virterr.XMLError, "disk path '%s' must be absolute", path)
	case strings.ContainsAny(path, "\n"):
		return source.Errorf(virterr.XMLError, "disk path %q contains a line end", path)
	}
	return nil
}

func (d *Definition) diskTarget(disk *xmltree.Node) error {
	target := disk.Child("target")
	name := target.Attr("dev")
	if name == "" {
		return disk.Errorf(virterr.XMLError, "missing target: disk '%s' needs <target dev='vda' bus='virtio'/>", sourceText(disk))
	}
	if !diskName.MatchString(name) {
		return target.Errorf(virterr.XMLError, "unknown disk name '%s'; use vda, vdb and so on", name)
	}
	if target.Attr("bus") != "" {
		return nil
	}
	if !strings.HasPrefix(name, "vd") && !d.opts.Stored {
		return target.Errorf(virterr.ConfigUnsupported, "disk '%s' means a bus that is not supported; use bus='virtio'", name)
	}
	target.SetAttr("bus", "virtio")
	return nil
}

func (d *Definition) diskDriver(disk *xmltree.Node) error {
	driver := disk.Ensure("driver")
	setDefault(driver, "name", "qemu")
	setDefault(driver, "type", "raw")
	if d.opts.Stored {
		return nil
	}
	if disk.Attr("type") == typeVhostUser {
		if err := checkVhostUserDisk(disk); err != nil {
			return err
		}
	}
	cache := driver.Attr("cache")
	if driver.Attr("io") == "native" && cache != "none" && cache != "directsync" {
		return driver.Errorf(virterr.ConfigUnsupported, "io='native' needs cache='none' or cache='directsync'")
	}
	if driver.Attr("detect_zeroes") == "unmap" && driver.Attr("discard") != "unmap" {
		return driver.Errorf(virterr.ConfigUnsupported, "detect_zeroes='unmap' needs discard='unmap'")
	}
	if q, ok := driver.LookupAttr("queues"); ok {
		if n, err := strconv.Atoi(q); err != nil || n < 1 || n > MaxDiskQueues {
			return driver.Errorf(virterr.ConfigUnsupported, "disk queues='%s' must be from 1 to %d", q, MaxDiskQueues)
		}
	}
	if q, ok := driver.LookupAttr("queue_size"); ok {
		if n, err := strconv.ParseUint(q, 10, 16); err != nil || bits.OnesCount64(n) != 1 || n < 2 || n > MaxDiskQueueSize {
			return driver.Errorf(virterr.ConfigUnsupported, "disk queue_size='%s' must be a power of two from 2 to %d", q, MaxDiskQueueSize)
		}
	}
	return nil
}

func (d *Definition) diskDetails(disk *xmltree.Node) error {
	if serial := disk.Child("serial"); serial != nil && !d.opts.Stored {
		text := serial.Content()
		if !serialText.MatchString(text) {
			return serial.Errorf(virterr.XMLError, "disk serial '%s' contains unsafe characters", text)
		}
		if len(text) > MaxDiskSerial {
			return serial.Errorf(virterr.ConfigUnsupported, "disk serial '%s' is longer than %d bytes", text, MaxDiskSerial)
		}
	}
	io := disk.Child("blockio")
	if io == nil || d.opts.Stored {
		return nil
	}
	logical, err1 := blockSize(io, "logical_block_size", 512)
	physical, err2 := blockSize(io, "physical_block_size", logical)
	switch {
	case err1 != nil:
		return err1
	case err2 != nil:
		return err2
	case physical < logical:
		return io.Errorf(virterr.ConfigUnsupported, "physical block size %d is smaller than the logical one, %d", physical, logical)
	}
	return nil
}

func blockSize(n *xmltree.Node, attr string, missing uint64) (uint64, error) {
	text, ok := n.LookupAttr(attr)
	if !ok {
		return missing, nil
	}
	size, err := strconv.ParseUint(text, 10, 32)
	if err != nil || bits.OnesCount64(size) != 1 || size < 512 || size > 32768 {
		return 0, n.Errorf(virterr.ConfigUnsupported, "%s='%s' must be a power of two from 512 to 32768", attr, text)
	}
	return size, nil
}
