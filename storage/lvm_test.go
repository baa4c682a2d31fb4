package storage

import (
	"slices"
	"testing"
)

// lvsReport is what lvs 2.03 prints for a volume of two segments, one striped, a snapshot of nothing, a thin pool with a
// volume, and one that is not active.
const lvsReport = `{"report":[{"lv":[
{"lv_name":"root","origin":"","lv_uuid":"RRRR","devices":"/dev/sdb(0)","segtype":"linear","stripes":"1","seg_size":"8388608","vg_extent_size":"4194304","lv_size":"20971520","lv_attr":"-wi-ao----"},
{"lv_name":"root","origin":"","lv_uuid":"RRRR","devices":"/dev/sdb(4)","segtype":"linear","stripes":"1","seg_size":"12582912","vg_extent_size":"4194304","lv_size":"20971520","lv_attr":"-wi-ao----"},
{"lv_name":"wide","origin":"","lv_uuid":"WWWW","devices":"/dev/sdb(2),/dev/sdc(0)","segtype":"striped","stripes":"2","seg_size":"16777216","vg_extent_size":"4194304","lv_size":"16777216","lv_attr":"-wi-a-----"},
{"lv_name":"thin","origin":"[thin_vorigin]","lv_uuid":"TTTT","devices":"/dev/sdc(2)","segtype":"linear","stripes":"1","seg_size":"4194304","vg_extent_size":"4194304","lv_size":"1073741824","lv_attr":"swi-a-s---"},
{"lv_name":"pool","origin":"","lv_uuid":"PPPP","devices":"pool_tdata(0)","segtype":"thin-pool","stripes":"1","seg_size":"4194304","vg_extent_size":"4194304","lv_size":"4194304","lv_attr":"twi-aotz--"},
{"lv_name":"inpool","origin":"","lv_uuid":"IIII","devices":"","segtype":"thin","stripes":"0","seg_size":"4194304","vg_extent_size":"4194304","lv_size":"4194304","lv_attr":"Vwi-a-tz--"},
{"lv_name":"off","origin":"","lv_uuid":"OOOO","devices":"/dev/sdc(9)","segtype":"linear","stripes":"1","seg_size":"4194304","vg_extent_size":"4194304","lv_size":"4194304","lv_attr":"-wi-------"}
]}]}`

func TestReadVolumes(t *testing.T) {
	rows, err := parseReport([]byte(lvsReport), "lv")
	if err != nil {
		t.Fatal(err)
	}
	list, err := readVolumes(rows)
	if err != nil || len(list) != 6 {
		t.Fatalf("%+v %v", list, err)
	}
	const m = 4 << 20
	for name, want := range map[string][]deviceExtents{
		"root": {{"/dev/sdb", [][2]uint64{{0, 2 * m}, {4 * m, 7 * m}}}},
		"wide": {{"/dev/sdb", [][2]uint64{{2 * m, 4 * m}}}, {"/dev/sdc", [][2]uint64{{0, 2 * m}}}},
		"thin": {{"/dev/sdc", [][2]uint64{{2 * m, 3 * m}}}},
		"pool": nil, "inpool": nil,
	} {
		same := slices.EqualFunc(list[name].extents, want, func(a, b deviceExtents) bool { return a.path == b.path && slices.Equal(a.ranges, b.ranges) })
		if !same {
			t.Errorf("%s: %+v", name, list[name])
		}
	}
	for name, v := range list {
		if want := name != "pool" && name != "off"; v.visible() != want {
			t.Errorf("%s is visible: %v", name, !want)
		}
		if v.sparse() != (name == "thin") {
			t.Errorf("%s is sparse: %v", name, v.sparse())
		}
	}
	for _, bad := range []string{"", "{", `{"report":[{"lv":[{"lv_name":"a","lv_size":"x"}]}]}`, `{"report":[{"lv":[{"lv_size":"1"}]}]}`} {
		rows, err := parseReport([]byte(bad), "lv")
		if err == nil {
			_, err = readVolumes(rows)
		}
		if err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
}

func FuzzReadVolumes(f *testing.F) {
	f.Add([]byte(lvsReport))
	f.Fuzz(func(t *testing.T, text []byte) {
		rows, err := parseReport(text, "lv")
		if err != nil {
			return
		}
		list, err := readVolumes(rows)
		if err != nil {
			return
		}
		for name, v := range list {
			if name != v.name || name == "" {
				t.Fatalf("%q: %+v", name, v)
			}
			v.visible()
		}
	})
}
