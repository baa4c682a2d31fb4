package storagetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// extent is the size of every group's extents.
const extent = 4 << 20

// group is a volume group.
type group struct {
	devices []string // paths on the host
	extents uint64
	volumes []*volume
	active  bool
}

// volume is a logical volume, one segment on the group's first device.
type volume struct {
	name, uuid, origin string
	size, shown        uint64 // extents taken; bytes that the device has
	first              uint64
}

// programs are LVM's, each with what of its options package storage uses.
var programs = map[string]func(*Host, []string) ([]byte, error){
	"pvs": (*Host).pvs, "vgs": (*Host).vgs, "lvs": (*Host).lvs, "vgcreate": (*Host).vgcreate, "vgchange": (*Host).vgchange,
	"vgremove": (*Host).vgremove, "pvremove": (*Host).pvremove, "lvcreate": (*Host).lvcreate, "lvremove": (*Host).lvremove,
	"lvresize": (*Host).lvresize, "lvrename": (*Host).lvrename,
}

// withValue are the options that are followed by a value.
var withValue = []string{"--reportformat", "--units", "--options", "--activate", "--name", "--size", "--virtualsize", "--type", "--zero", "--wipesignatures"}

// split tells options from operands.
func split(args []string) (options map[string]string, operands []string) {
	options = map[string]string{}
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains(withValue, args[i]):
			options[args[i]] = args[i+1]
			i++
		case strings.HasPrefix(args[i], "--"):
			options[args[i]] = ""
		default:
			operands = append(operands, args[i])
		}
	}
	return options, operands
}

func report(what string, rows []map[string]string) ([]byte, error) {
	return json.Marshal(map[string]any{"report": []map[string]any{{what: rows}}})
}

func (h *Host) find(name string) (*group, error) {
	if g := h.groups[name]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("Volume group %q not found; Cannot process volume group %s", name, name)
}

// lookup finds a volume by GROUP/NAME.
func (h *Host) lookup(path string) (*group, *volume, error) {
	of, name, _ := strings.Cut(path, "/")
	g, err := h.find(of)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range g.volumes {
		if v.name == name {
			return g, v, nil
		}
	}
	return nil, nil, fmt.Errorf("Failed to find logical volume %q", path)
}

func (h *Host) pvs([]string) ([]byte, error) {
	rows := []map[string]string{}
	for name, g := range h.groups {
		for _, d := range g.devices {
			rows = append(rows, map[string]string{"pv_name": d, "vg_name": name})
		}
	}
	slices.SortFunc(rows, func(a, b map[string]string) int { return strings.Compare(a["pv_name"], b["pv_name"]) })
	return report("pv", rows)
}

func (g *group) taken() (n uint64) {
	for _, v := range g.volumes {
		n += v.size
	}
	return n
}

func (h *Host) vgs(args []string) ([]byte, error) {
	_, names := split(args)
	g, err := h.find(names[0])
	if err != nil {
		return nil, err
	}
	return report("vg", []map[string]string{{"vg_size": fmt.Sprint(g.extents * extent), "vg_free": fmt.Sprint((g.extents - g.taken()) * extent)}})
}

func (h *Host) lvs(args []string) ([]byte, error) {
	_, names := split(args)
	g, err := h.find(names[0])
	if err != nil {
		return nil, err
	}
	rows := []map[string]string{}
	for _, v := range g.volumes {
		attr := "-wi-------"
		if g.active {
			attr = "-wi-a-----"
		}
		if v.origin != "" {
			attr = "s" + attr[1:]
		}
		rows = append(rows, map[string]string{
			"lv_name": v.name, "origin": v.origin, "lv_uuid": v.uuid, "devices": fmt.Sprintf("%s(%d)", g.devices[0], v.first), "segtype": "linear",
			"stripes": "1", "seg_size": fmt.Sprint(v.size * extent), "vg_extent_size": fmt.Sprint(extent), "lv_size": fmt.Sprint(v.shown), "lv_attr": attr,
		})
	}
	return report("lv", rows)
}

func (h *Host) vgcreate(args []string) ([]byte, error) {
	_, names := split(args)
	if h.groups[names[0]] != nil {
		return nil, fmt.Errorf("A volume group called %s already exists.", names[0])
	}
	g := &group{active: true}
	for _, path := range names[1:] {
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if err := writeAt(path, 512, []byte("LABELONE")); err != nil {
			return nil, err
		}
		g.extents += uint64(st.Size())/extent - 1
		g.devices = append(g.devices, strings.TrimPrefix(path, h.root))
	}
	h.groups[names[0]] = g
	return nil, nil
}

func writeAt(path string, at int64, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(data, at)
	return err
}

func (h *Host) vgchange(args []string) ([]byte, error) {
	options, names := split(args)
	g, err := h.find(names[0])
	if err != nil {
		return nil, err
	}
	g.active = options["--activate"] == "y"
	for _, v := range g.volumes {
		if err := h.node(names[0], v, g.active); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// node makes a volume's device, whose data stays hidden while it is not active, or hides it.
func (h *Host) node(group string, v *volume, active bool) error {
	path := h.Path("/dev/" + group + "/" + v.name)
	hidden := filepath.Join(h.root, "inactive-"+group+"-"+v.name)
	if !active {
		return os.Rename(path, hidden)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return os.Rename(hidden, path)
}

func (h *Host) vgremove(args []string) ([]byte, error) {
	_, names := split(args)
	g, err := h.find(names[0])
	if err == nil && len(g.volumes) > 0 {
		err = fmt.Errorf("Volume group %q still contains %d logical volume(s)", names[0], len(g.volumes))
	}
	delete(h.groups, names[0])
	return nil, err
}

func (h *Host) pvremove(args []string) ([]byte, error) {
	_, names := split(args)
	for _, path := range names {
		if err := writeAt(h.Path(path), 512, make([]byte, 8)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func bytesOf(text string) (uint64, error) {
	return strconv.ParseUint(strings.TrimSuffix(text, "b"), 10, 64)
}

func (h *Host) lvcreate(args []string) ([]byte, error) {
	options, names := split(args)
	of, origin, _ := strings.Cut(names[0], "/")
	g, err := h.find(of)
	if err != nil {
		return nil, err
	}
	name := options["--name"]
	if _, _, err := h.lookup(of + "/" + name); err == nil {
		return nil, fmt.Errorf("Logical Volume %q already exists in volume group %q", name, of)
	}
	size, err := bytesOf(options["--size"])
	if err != nil {
		return nil, err
	}
	v := &volume{name: name, uuid: fmt.Sprintf("uuid-%s-%s", of, name), size: (size + extent - 1) / extent, first: g.taken()}
	v.shown = v.size * extent
	if v.size > g.extents-g.taken() {
		return nil, fmt.Errorf("Volume group %q has insufficient free space (%d extents): %d required.", of, g.extents-g.taken(), v.size)
	}
	if virtual := options["--virtualsize"]; virtual != "" {
		v.origin = "[" + name + "_vorigin]"
		v.shown, err = bytesOf(virtual)
	} else if origin != "" {
		var from *volume
		if _, from, err = h.lookup(names[0]); err == nil {
			v.origin, v.shown = origin, from.shown
		}
	}
	if err != nil {
		return nil, err
	}
	path, err := h.Device(of+"/"+name, int64(v.shown))
	if err != nil {
		return nil, err
	}
	g.volumes = append(g.volumes, v)
	// what others left there, which whoever makes the volume does not expect to be zero
	return nil, writeAt(h.Path(path), int64(v.shown)-4, []byte("left"))
}

func (h *Host) lvremove(args []string) ([]byte, error) {
	_, names := split(args)
	g, v, err := h.lookup(names[0])
	if err != nil {
		return nil, err
	}
	g.volumes = slices.DeleteFunc(g.volumes, func(o *volume) bool { return o == v || o.origin == v.name })
	return nil, os.Remove(h.Path("/dev/" + names[0]))
}

func (h *Host) lvresize(args []string) ([]byte, error) {
	options, names := split(args)
	_, v, err := h.lookup(names[0])
	if err != nil {
		return nil, err
	}
	size, err := bytesOf(options["--size"])
	if err != nil {
		return nil, err
	}
	v.size = (size + extent - 1) / extent
	v.shown = v.size * extent
	return nil, os.Truncate(h.Path("/dev/"+names[0]), int64(v.shown))
}

func (h *Host) lvrename(args []string) ([]byte, error) {
	_, v, err := h.lookup(args[0] + "/" + args[1])
	if err != nil {
		return nil, err
	}
	v.name = args[2]
	return nil, os.Rename(h.Path("/dev/"+args[0]+"/"+args[1]), h.Path("/dev/"+args[0]+"/"+args[2]))
}
