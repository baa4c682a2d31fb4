package manager

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"virtd/domain"
	"virtd/driver/fake"
	"virtd/virterr"
)

func ioTune(pairs map[string]uint64) IOTuneChange {
	var c IOTuneChange
	for _, name := range domain.IOTuneNames {
		if v, ok := pairs[name]; ok {
			*c.Values.Number(name) = v
			c.Named = append(c.Named, name)
		}
	}
	return c
}

// tuneFixture is a running domain with two disks, of which the first has these limits.
func tuneFixture(t *testing.T, tune string) (*fixture, *Domain) {
	t.Helper()
	f := newFixture(t, &fake.Driver{}, newMemStore())
	text := strings.Replace(testXML("demo", ""), "<devices>", "<devices><disk type='file'><source file='/a.img'/><target dev='vdc' bus='virtio'/>"+
		tune+"</disk><disk type='file'><source file='/b.img'/><target dev='vdb' bus='virtio'/></disk>", 1)
	d, err := f.m.Define(context.Background(), text, 0)
	if err == nil {
		err = d.Start(context.Background(), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, d
}

// tunables waits until n events of what was set came, and returns them in order.
func (f *fixture) tunables(n int) []string {
	f.t.Helper()
	var list []string
	for range 500 {
		if list = f.tuned(); len(list) >= n {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return list
}

func (f *fixture) tuned() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if e.Kind != EventTunable {
			continue
		}
		var words []string
		for _, p := range e.Tunables {
			words = append(words, fmt.Sprintf("%s=%v", p.Name, p.Value))
		}
		out = append(out, strings.Join(words, " "))
	}
	return out
}

// TestSetIOTune changes limits live, in the configuration, and of a group, and finds them in the engine, in both documents
// and in the events.
func TestSetIOTune(t *testing.T) {
	f, d := tuneFixture(t, "")
	ctx := context.Background()
	e := f.drv.Engine("demo")
	if err := d.SetIOTune(ctx, "vdc", ioTune(map[string]uint64{"total_iops_sec": 100, "total_iops_sec_max": 200}), AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
	want := domain.IOTune{TotalIOPS: domain.IORate{Sec: 100, Max: 200}}
	if got, told := e.IOTune("virtio-disk2"); !told || got != want {
		t.Errorf("the engine was told %+v", got)
	}
	for _, flags := range []Affect{AffectLive, AffectConfig, AffectCurrent} {
		if got, err := d.IOTune("/a.img", flags); err != nil || got != want {
			t.Errorf("limits with flags %d: %+v, %v", flags, got, err)
		}
	}
	if xml, err := d.XML(domain.XMLInactive); err != nil || !strings.Contains(xml, "<total_iops_sec_max>200</total_iops_sec_max>") {
		t.Errorf("the limits are not in the configuration: %v\n%s", err, xml)
	}

	// What is not named stays; a group is shared, by name alone too.
	group := ioTune(map[string]uint64{"read_bytes_sec": 1 << 20})
	group.Values.Group, group.Named = "g", append(group.Named, domain.IOTuneGroup)
	if err := d.SetIOTune(ctx, "vdc", group, AffectCurrent); err != nil {
		t.Fatal(err)
	}
	want.ReadBytes.Sec, want.Group = 1<<20, "g"
	join := IOTuneChange{Values: domain.IOTune{Group: "g"}, Named: []string{domain.IOTuneGroup}}
	if err := d.SetIOTune(ctx, "vdb", join, AffectLive); err != nil {
		t.Fatal(err)
	}
	if got, _ := e.IOTune("virtio-disk1"); got != want {
		t.Errorf("the disk that joined has %+v", got)
	}
	if err := d.SetIOTune(ctx, "vdb", ioTune(map[string]uint64{"write_bytes_sec": 5}), AffectLive); err != nil {
		t.Fatal(err)
	}
	want.ReadBytes.Sec, want.WriteBytes.Sec = 0, 5
	for _, disk := range []string{"vdc", "vdb"} {
		if got, err := d.IOTune(disk, AffectLive); err != nil || got != want {
			t.Errorf("%s of the group has %+v, %v", disk, got, err)
		}
	}
	off := IOTuneChange{Named: []string{"total_iops_sec", "total_iops_sec_max", "total_bytes_sec"}}
	if err := d.SetIOTune(ctx, "vdb", off, AffectLive); err != nil {
		t.Fatal(err)
	}
	if got, _ := e.IOTune("virtio-disk1"); got != (domain.IOTune{}) {
		t.Errorf("without limits: %+v", got)
	}
	if got := f.tunables(5); len(got) != 5 || got[0] != "blkdeviotune.disk=vdc blkdeviotune.total_iops_sec=100 blkdeviotune.total_iops_sec_max=200" ||
		got[2] != "blkdeviotune.disk=vdb blkdeviotune.group_name=g" {
		t.Errorf("events %q", got)
	}
}

// TestSetIOTuneRefuses: what is refused changes nothing anywhere.
func TestSetIOTuneRefuses(t *testing.T) {
	f, d := tuneFixture(t, "<iotune><total_iops_sec>5</total_iops_sec><total_iops_sec_max>9</total_iops_sec_max></iotune>")
	ctx := context.Background()
	before, err := d.XML(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		disk string
		set  map[string]uint64
		code virterr.Code
		text string
	}{
		{"vdc", map[string]uint64{"total_iops_sec": 1, "read_iops_sec": 1}, virterr.InvalidArg, "total and read/write of iops_sec cannot be set at the same time"},
		{"vdc", map[string]uint64{"total_bytes_sec_max": 1, "write_bytes_sec_max": 1}, virterr.InvalidArg, "total and read/write of bytes_sec_max cannot be set at the same time"},
		{"vdc", map[string]uint64{"total_iops_sec": 0}, virterr.ConfigUnsupported, "cannot reset 'total_iops_sec' when 'total_iops_sec_max' is set"},
		{"vdc", map[string]uint64{"total_iops_sec": 10}, virterr.ConfigUnsupported, "value 'total_iops_sec_max' cannot be smaller than 'total_iops_sec'"},
		{"vdz", map[string]uint64{"total_iops_sec": 9}, virterr.InvalidArg, "disk 'vdz' not found in domain"},
	} {
		err := d.SetIOTune(ctx, c.disk, ioTune(c.set), AffectLive)
		if e := virterr.As(err); e.Code != c.code || !strings.Contains(e.Message, c.text) {
			t.Errorf("%v: %v", c.set, err)
		}
	}
	if err := d.SetIOTune(ctx, "vdz", ioTune(map[string]uint64{"total_iops_sec": 9}), AffectConfig); err == nil ||
		!strings.Contains(err.Error(), "missing persistent configuration for disk 'vdz'") {
		t.Errorf("no such disk in the configuration: %v", err)
	}
	if after, err := d.XML(0); err != nil || after != before {
		t.Errorf("changed: %v\n%s", err, after)
	}
	if _, told := f.drv.Engine("demo").IOTune("virtio-disk2"); told || len(f.tuned()) != 0 {
		t.Error("the engine or a client heard of it")
	}
}
