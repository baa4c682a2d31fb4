package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"virtd/virterr"
)

// lvm runs LVM's programs. Their names and arguments are those of lvm2's man pages; what they print is asked for as JSON and
// in bytes.
type lvm struct{ host Host }

// run runs a program that changes something.
func (l lvm) run(ctx context.Context, program string, args ...string) error {
	_, err := l.output(ctx, program, args...)
	return err
}

func (l lvm) output(ctx context.Context, program string, args ...string) ([]byte, error) {
	out, err := l.host.Run(ctx, program, args...)
	var missing MissingProgram
	if errors.As(err, &missing) {
		return nil, failure(virterr.OperationUnsupported, "%w: install package lvm2", err)
	}
	if err != nil {
		return nil, failure(virterr.InternalError, "%w", err)
	}
	return out, nil
}

// report asks for columns of what a reporting program lists.
func (l lvm) report(ctx context.Context, program, what, columns string, names ...string) ([]map[string]string, error) {
	args := append([]string{"--reportformat", "json", "--units", "b", "--nosuffix", "--options", columns}, names...)
	out, err := l.output(ctx, program, args...)
	if err != nil {
		return nil, err
	}
	rows, err := parseReport(out, what)
	if err != nil {
		return nil, failure(virterr.InternalError, "cannot understand what %s printed: %w", program, err)
	}
	return rows, nil
}

// parseReport reads a report: {"report":[{"lv":[{"lv_name":"root", ...}, ...]}]}.
func parseReport(text []byte, what string) ([]map[string]string, error) {
	var doc struct {
		Report []map[string][]map[string]string `json:"report"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	var rows []map[string]string
	for _, r := range doc.Report {
		rows = append(rows, r[what]...)
	}
	return rows, nil
}

// logicalVolume is what lvs says of a volume.
type logicalVolume struct {
	name, uuid string
	size       uint64
	origin     string // of a snapshot
	attr       string // lv_attr of lvs(8)
	extents    []deviceExtents
}

// visible reports whether it is something that a guest can be given: active, and no part or pool of others.
func (v logicalVolume) visible() bool {
	return len(v.attr) > 4 && v.attr[4] == 'a' && !strings.ContainsRune("tTeliIpdD", rune(v.attr[0])) && !strings.HasPrefix(v.name, "[")
}

// sparse reports whether a snapshot is one of nothing, made with --virtualsize.
func (v logicalVolume) sparse() bool {
	return v.origin == "["+v.name+"_vorigin]" || v.origin == v.name+"_vorigin"
}

const volumeColumns = "lv_name,origin,lv_uuid,devices,segtype,stripes,seg_size,vg_extent_size,lv_size,lv_attr"

// volumes lists a group's volumes by name.
func (l lvm) volumes(ctx context.Context, group string) (map[string]logicalVolume, error) {
	rows, err := l.report(ctx, "lvs", "lv", volumeColumns, group)
	if err != nil {
		return nil, err
	}
	return readVolumes(rows)
}

// readVolumes makes volumes of lvs' rows, one for each segment.
func readVolumes(rows []map[string]string) (map[string]logicalVolume, error) {
	out := map[string]logicalVolume{}
	for _, row := range rows {
		name := row["lv_name"]
		v, seen := out[name]
		if !seen {
			size, err := strconv.ParseUint(row["lv_size"], 10, 64)
			if err != nil || name == "" {
				return nil, fmt.Errorf("volume '%s' has size '%s'", name, row["lv_size"])
			}
			v = logicalVolume{name: name, uuid: row["lv_uuid"], size: size, origin: row["origin"], attr: row["lv_attr"]}
		}
		v.addExtents(row)
		out[name] = v
	}
	return out, nil
}

// addExtents reads where a segment is: "/dev/sdb(0),/dev/sdc(0)", each the number of an extent. What is not on physical
// volumes, such as a thin volume, has none to show.
func (v *logicalVolume) addExtents(row map[string]string) {
	length, err1 := strconv.ParseUint(row["seg_size"], 10, 64)
	unit, err2 := strconv.ParseUint(row["vg_extent_size"], 10, 64)
	if err1 != nil || err2 != nil {
		return
	}
	parts := strings.Split(row["devices"], ",")
	if stripes, err := strconv.ParseUint(row["stripes"], 10, 32); err == nil && stripes > 1 && row["segtype"] == "striped" {
		length /= stripes
	}
	for _, part := range parts {
		open := strings.LastIndexByte(part, '(')
		if open < 0 || !strings.HasPrefix(part, "/") || !strings.HasSuffix(part, ")") {
			continue
		}
		first, err := strconv.ParseUint(part[open+1:len(part)-1], 10, 32)
		if err != nil {
			continue
		}
		path := part[:open]
		if n := len(v.extents); n == 0 || v.extents[n-1].path != path {
			v.extents = append(v.extents, deviceExtents{path: path})
		}
		last := &v.extents[len(v.extents)-1]
		last.ranges = append(last.ranges, [2]uint64{first * unit, first*unit + length})
	}
}

// group says how large a volume group is, and how much of it is free.
func (l lvm) group(ctx context.Context, name string) (size, free uint64, err error) {
	rows, err := l.report(ctx, "vgs", "vg", "vg_size,vg_free", name)
	if err != nil {
		return 0, 0, err
	}
	if len(rows) != 1 {
		return 0, 0, failure(virterr.InternalError, "vgs lists %d volume groups of name '%s'", len(rows), name)
	}
	size, err1 := strconv.ParseUint(rows[0]["vg_size"], 10, 64)
	free, err2 := strconv.ParseUint(rows[0]["vg_free"], 10, 64)
	if err := errors.Join(err1, err2); err != nil || free > size {
		return 0, 0, failure(virterr.InternalError, "vgs says of volume group '%s' that it has %s bytes, %s free", name, rows[0]["vg_size"], rows[0]["vg_free"])
	}
	return size, free, nil
}

// physical is a physical volume of a group; one that belongs to none has no group.
type physical struct{ path, group string }

func (l lvm) physicals(ctx context.Context) ([]physical, error) {
	rows, err := l.report(ctx, "pvs", "pv", "pv_name,vg_name")
	if err != nil {
		return nil, err
	}
	var out []physical
	for _, row := range rows {
		out = append(out, physical{row["pv_name"], row["vg_name"]})
	}
	return out, nil
}
