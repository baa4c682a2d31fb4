package domain

import (
	"slices"
	"strconv"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// MaxIOTune is the highest value of a disk's limits, as in libvirt.
const MaxIOTune = 1_000_000_000_000_000

// IORate is one limit of a disk, in bytes or operations.
type IORate struct {
	Sec       uint64 // each second on average; 0 is no limit
	Max       uint64 // in a second of a burst; 0 is none
	MaxLength uint64 // seconds that a burst may last; 0 is 1
}

// IOTune is what a disk's <iotune> says. The zero value is a disk without limits.
type IOTune struct {
	TotalBytes, ReadBytes, WriteBytes IORate
	TotalIOPS, ReadIOPS, WriteIOPS    IORate
	SizeIOPS                          uint64 // bytes up to which an operation counts as one; 0: each does
	Group                             string // disks with the same share their limits; "" is the disk alone
}

// IOTuneGroup is the name of the one value of <iotune> that is no number.
const IOTuneGroup = "group_name"

// The names of an IORate's values in libvirt, without their common beginning.
var rateNames = [...]string{"total_bytes_sec", "read_bytes_sec", "write_bytes_sec", "total_iops_sec", "read_iops_sec", "write_iops_sec"}

const (
	maxSuffix    = "_max"
	lengthSuffix = "_max_length"
	sizeIOPS     = "size_iops_sec"
)

// IOTuneNames are the names of all values, in the order in which libvirt lists them.
var IOTuneNames = func() (names []string) {
	names = append(names, rateNames[:]...)
	for _, n := range rateNames {
		names = append(names, n+maxSuffix)
	}
	names = append(names, sizeIOPS, IOTuneGroup)
	for _, n := range rateNames {
		names = append(names, n+lengthSuffix)
	}
	return names
}()

// rates returns the rates in the order of rateNames.
func (t *IOTune) rates() [len(rateNames)]*IORate {
	return [...]*IORate{&t.TotalBytes, &t.ReadBytes, &t.WriteBytes, &t.TotalIOPS, &t.ReadIOPS, &t.WriteIOPS}
}

// Number returns where the number of that name is, nil where there is none.
func (t *IOTune) Number(name string) *uint64 {
	if name == sizeIOPS {
		return &t.SizeIOPS
	}
	for i, rate := range t.rates() {
		switch name {
		case rateNames[i]:
			return &rate.Sec
		case rateNames[i] + maxSuffix:
			return &rate.Max
		case rateNames[i] + lengthSuffix:
			return &rate.MaxLength
		}
	}
	return nil
}

// Limited reports whether anything is limited.
func (t IOTune) Limited() bool {
	t.Group = ""
	return t != IOTune{}
}

// ReadIOTune reads the limits of a <disk>.
func ReadIOTune(disk *xmltree.Node) (IOTune, error) {
	var t IOTune
	tune := disk.Child("iotune")
	for _, name := range IOTuneNames {
		n := tune.Child(name)
		if n == nil {
			continue
		}
		if name == IOTuneGroup {
			t.Group = n.Trimmed()
			continue
		}
		v, err := strconv.ParseUint(n.Trimmed(), 10, 64)
		if err != nil {
			return t, n.Errorf(virterr.XMLError, "disk iotune field '%s' must be an integer", name)
		}
		*t.Number(name) = v
	}
	return t, nil
}

// families are values that a change of limits replaces together: who names one means the others to be 0.
var families = [...][]string{
	0: rateNames[0:3], 1: rateNames[3:6],
	2: suffixed(rateNames[0:3], maxSuffix), 3: suffixed(rateNames[3:6], maxSuffix),
	4: suffixed(rateNames[0:3], lengthSuffix), 5: suffixed(rateNames[3:6], lengthSuffix),
	6: {sizeIOPS},
}

func suffixed(names []string, suffix string) (out []string) {
	for _, n := range names {
		out = append(out, n+suffix)
	}
	return out
}

// Changed returns the limits after a change to those of set that are named, as libvirt has it: families that are not named
// stay, and a length that is taken away from a limit that had one becomes a second.
func (t IOTune) Changed(set IOTune, named []string) IOTune {
	for _, family := range families {
		if !slices.ContainsFunc(family, func(name string) bool { return slices.Contains(named, name) }) {
			for _, name := range family {
				*set.Number(name) = *t.Number(name)
			}
		}
	}
	for i, rate := range set.rates() {
		if old := t.rates()[i]; old.MaxLength != 0 && rate.MaxLength == 0 && (rate.Sec != 0 || rate.Max != 0) {
			rate.MaxLength = 1
		}
	}
	if !slices.Contains(named, IOTuneGroup) {
		set.Group = t.Group
	}
	if !set.Limited() { // a group is one of limits
		set.Group = ""
	}
	return set
}

// exclusive says what is wrong when there are limits of the total together with those of reads or writes. of is what libvirt
// says before the unit: "of " in calls, nothing in documents.
func (t IOTune) exclusive(of string) string {
	type triple struct{ total, read, write IORate }
	for _, kind := range []struct {
		unit string
		r    triple
	}{{"bytes_sec", triple{t.TotalBytes, t.ReadBytes, t.WriteBytes}}, {"iops_sec", triple{t.TotalIOPS, t.ReadIOPS, t.WriteIOPS}}} {
		if kind.r.total.Sec != 0 && (kind.r.read.Sec != 0 || kind.r.write.Sec != 0) {
			return "total and read/write " + of + kind.unit + " cannot be set at the same time"
		}
		if kind.r.total.Max != 0 && (kind.r.read.Max != 0 || kind.r.write.Max != 0) {
			return "total and read/write " + of + kind.unit + maxSuffix + " cannot be set at the same time"
		}
	}
	return ""
}

// CheckExclusive refuses, in a call, limits of the total together with those of reads or writes.
func (t IOTune) CheckExclusive() error {
	if text := t.exclusive("of "); text != "" {
		return virterr.New(virterr.InvalidArg, "%s", text)
	}
	return nil
}

// check says what is wrong with limits that make no sense together. missing is libvirt's text for a maximum without its
// limit.
func (t IOTune) check(missing func(limit, max string) string) (virterr.Code, string) {
	if t.Group != "" && !t.Limited() {
		return virterr.ConfigUnsupported, "group_name can be configured only together with settings"
	}
	for i, rate := range t.rates() {
		name := rateNames[i]
		switch {
		case rate.Sec > MaxIOTune || rate.Max > MaxIOTune || rate.MaxLength > MaxIOTune:
			return virterr.ArgumentUnsupported, "block I/O throttle limit must be no more than " + strconv.Itoa(MaxIOTune) + " using QEMU"
		case rate.Max != 0 && rate.Sec == 0:
			return virterr.ConfigUnsupported, missing(name, name+maxSuffix)
		case rate.Max != 0 && rate.Max < rate.Sec:
			return virterr.ConfigUnsupported, "value '" + name + maxSuffix + "' cannot be smaller than '" + name + "'"
		case rate.MaxLength > 1 && rate.Max == 0:
			return virterr.ConfigUnsupported, "value '" + name + lengthSuffix + "' cannot be set if '" + name + maxSuffix + "' is not set"
		}
	}
	iops := t.TotalIOPS.Sec | t.ReadIOPS.Sec | t.WriteIOPS.Sec
	switch {
	case t.SizeIOPS > MaxIOTune:
		return virterr.ArgumentUnsupported, "block I/O throttle limit must be no more than " + strconv.Itoa(MaxIOTune) + " using QEMU"
	case t.SizeIOPS != 0 && iops == 0:
		return virterr.ConfigUnsupported, "value 'size_iops_sec' cannot be set without a limit of iops_sec"
	case strings.ContainsAny(t.Group, "\n\t"):
		return virterr.ConfigUnsupported, "group_name '" + t.Group + "' has a line end or tab"
	}
	return 0, ""
}

// CheckChange refuses, in a call, limits that make no sense together.
func (t IOTune) CheckChange() error {
	if code, text := t.check(func(limit, max string) string { return "cannot reset '" + limit + "' when '" + max + "' is set" }); text != "" {
		return virterr.New(code, "%s", text)
	}
	return nil
}

// diskIOTune checks the limits of a document's disk.
func (d *Definition) diskIOTune(disk *xmltree.Node) error {
	n := disk.Child("iotune")
	if n == nil || d.opts.Stored {
		return nil
	}
	t, err := ReadIOTune(disk)
	if err != nil {
		return err
	}
	if text := t.exclusive(""); text != "" {
		return n.Errorf(virterr.XMLError, "%s", text)
	}
	if code, text := t.check(func(limit, max string) string {
		return "value '" + max + "' cannot be set if '" + limit + "' is not set"
	}); text != "" {
		return n.Errorf(code, "%s", text)
	}
	return nil
}

// checkIOGroups refuses disks of one group whose limits differ.
func (d *Definition) checkIOGroups(devices *xmltree.Node) error {
	if d.opts.Stored {
		return nil
	}
	first := map[string]*xmltree.Node{}
	for _, disk := range devices.All("disk") {
		t, err := ReadIOTune(disk)
		if err != nil {
			return err
		}
		other := first[t.Group]
		if t.Group == "" {
			continue
		} else if other == nil {
			first[t.Group] = disk
		} else if same, err := ReadIOTune(other); err == nil && same != t {
			return disk.Errorf(virterr.ConfigUnsupported, "different iotunes for disks %s and %s",
				disk.Child("target").Attr("dev"), other.Child("target").Attr("dev"))
		}
	}
	return nil
}

// DiskIOTune returns the limits of the disk with that target or image; nil when there is no such disk.
func (d *Definition) DiskIOTune(name string) (*IOTune, error) {
	disk := findDisk(d.doc.Root, name)
	if disk == nil {
		return nil, nil
	}
	t, err := ReadIOTune(disk)
	return &t, err
}

// GroupIOTune returns the limits that the disks of a group have; nil for a group without disks.
func (d *Definition) GroupIOTune(group string) *IOTune {
	for _, disk := range d.doc.Root.Child("devices").All("disk") {
		if t, err := ReadIOTune(disk); err == nil && group != "" && t.Group == group {
			return &t
		}
	}
	return nil
}

func findDisk(root *xmltree.Node, name string) *xmltree.Node {
	for _, n := range root.Child("devices").All("disk") {
		if n.Child("target").Attr("dev") == name || DiskPath(n) == name {
			return n
		}
	}
	return nil
}

// SetIOTune returns the definition whose disk with that target or image has these limits, and so have all of its group.
func (d *Definition) SetIOTune(name string, t IOTune) (*Definition, error) {
	return d.edit(func(root *xmltree.Node) error {
		target := findDisk(root, name)
		if target == nil {
			return virterr.New(virterr.InvalidArg, "disk '%s' was not found in the domain config", name)
		}
		for _, disk := range root.Child("devices").All("disk") {
			old, err := ReadIOTune(disk)
			if disk == target || err == nil && t.Group != "" && old.Group == t.Group {
				writeIOTune(disk, t)
			}
		}
		return nil
	})
}

// writeIOTune puts limits into a disk. What else is in <iotune> stays.
func writeIOTune(disk *xmltree.Node, t IOTune) {
	n := disk.Ensure("iotune")
	for _, name := range IOTuneNames {
		text := t.Group
		if name != IOTuneGroup {
			text = strconv.FormatUint(*t.Number(name), 10)
		}
		if text == "" || text == "0" && name != IOTuneGroup {
			n.RemoveAll(name)
		} else {
			n.Ensure(name).SetContent(text)
		}
	}
	if len(n.Elements()) == 0 {
		n.Remove()
	}
}
