package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"virtd/storage"
	"virtd/virterr"
)

const logicalXML = "<pool type='logical'><name>p</name><source><device path='/dev/sdb'/><name>vg</name></source></pool>"

// group returns a started pool over a volume group of 15 extents.
func (b *hostBed) group() *storage.Pool {
	b.t.Helper()
	b.device("sdb", 64<<20, "")
	p := b.define(logicalXML)
	if err := p.Start(storage.BuildAtStart); err != nil {
		b.t.Fatal(err)
	}
	b.host.Ran()
	return p
}

func (b *hostBed) create(p *storage.Pool, xml string) storage.Volume {
	b.t.Helper()
	v, err := p.CreateVolume(ctx, xml, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func lv(name, size string) string {
	return "<volume><name>" + name + "</name><capacity>" + size + "</capacity></volume>"
}

func TestLogicalPoolLifecycle(t *testing.T) {
	b := newHostBed(t)
	p := b.define(logicalXML)
	wants(t, p.Start(0), virterr.OperationFailed, "cannot find logical volume group name 'vg'")
	wants(t, p.Build(0), virterr.SystemError, "cannot open source device '/dev/sdb'")
	b.device("sdb", 64<<20, "XFSB")
	wants(t, p.Build(0), virterr.OperationInvalid, "device '/dev/sdb' is not empty: it carries xfs; build with --overwrite")
	b.ran()
	ok(t, p.Build(storage.BuildDestroy))
	b.ran("vgcreate --yes vg /dev/sdb")
	wants(t, p.Build(0), virterr.OperationInvalid, "carries LVM2_member")
	ok(t, p.Start(0))
	b.ran("vgchange --activate y vg")
	if i, err := p.Info(); err != nil || i.Capacity != 60<<20 || i.Available != 60<<20 || i.Allocation != 0 {
		t.Errorf("%+v %v", i, err)
	}
	v := b.create(p, lv("a", "5000000"))
	b.ran("lvcreate --yes --name a --zero y --wipesignatures y --size 5000192b vg")
	if i, err := v.Info(); err != nil || i.Capacity != 8<<20 || !i.Block || v.Key != "uuid-vg-a" || v.Path != "/dev/vg/a" {
		t.Errorf("%+v %+v %v", i, v, err)
	}
	if i, err := p.Info(); err != nil || i.Available != 52<<20 {
		t.Errorf("%+v %v", i, err)
	}
	for _, find := range []func() (storage.Volume, error){
		func() (storage.Volume, error) { return b.VolumeByKey("uuid-vg-a") },
		func() (storage.Volume, error) { return b.VolumeByPath("/dev/vg/a") },
		func() (storage.Volume, error) { return b.Volume("p", "a") },
	} {
		if got, err := find(); err != nil || got.Path != v.Path || got.Key != v.Key {
			t.Errorf("%+v %v", got, err)
		}
	}
	if s, err := b.Source("p", "a"); err != nil || s.Path != "/dev/vg/a" || !s.Block {
		t.Errorf("%+v %v", s, err)
	}
	if text, err := v.XML(); err != nil || !strings.Contains(text, "<volume type='block'>") ||
		!strings.Contains(text, "<device path='/dev/sdb'>\n      <extent start='0' end='8388608'/>") || strings.Contains(text, "<format") {
		t.Errorf("%v\n%s", err, text)
	}
	b.users["/dev/vg/a"] = "guest"
	wants(t, p.Stop(), virterr.OperationInvalid, "domain 'guest' has volume 'a'")
	wants(t, v.Delete(ctx), virterr.OperationInvalid, "in use by domain 'guest'")
	wants(t, v.Resize(ctx, 4<<20, storage.ResizeShrink), virterr.OperationInvalid, "in use by domain 'guest'")
	wants(t, v.Wipe(ctx), virterr.OperationInvalid, "in use by domain 'guest'")
	b.ran()
	ok(t, v.Resize(ctx, 12<<20, 0))
	b.ran("lvresize --yes --size 12582912b vg/a")
	delete(b.users, "/dev/vg/a")

	ok(t, p.Stop())
	b.ran("vgchange --activate n vg")
	if _, err := b.VolumeByPath("/dev/vg/a"); err == nil {
		t.Error("a stopped pool has volumes")
	}
	wants(t, p.Delete(), virterr.OperationInvalid, "volume group 'vg' has 1 volumes: delete them first")
	ok(t, p.Start(0))
	ok(t, v.Delete(ctx))
	ok(t, p.Stop())
	b.host.Ran()
	ok(t, p.Delete())
	b.ran("vgremove vg", "pvremove /dev/sdb")
	ok(t, p.Build(storage.BuildDestroy))
}

func TestLogicalVolumes(t *testing.T) {
	b := newHostBed(t)
	p := b.group()
	a := b.create(p, "<volume><name>a</name><capacity>8388608</capacity><target><permissions><mode>0640</mode></permissions></target></volume>")
	if st, err := os.Stat(b.host.Path(a.Path)); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", st, err)
	}
	_, err := p.CreateVolume(ctx, lv("a", "1"), 0)
	wants(t, err, virterr.StorageVolExist, "storage volume 'a' exists already")
	_, err = p.CreateVolume(ctx, lv("big", "100000000"), 0)
	wants(t, err, virterr.InternalError, "insufficient free space")
	_, err = p.CreateVolume(ctx, lv("none", "0"), 0)
	wants(t, err, virterr.InvalidArg, "capacity of 0 bytes")
	b.host.Ran()

	sparse := b.create(p, "<volume><name>s</name><capacity>1073741824</capacity><allocation>4194304</allocation></volume>")
	b.ran("lvcreate --yes --name s --type snapshot --virtualsize 1073741824b --size 4194304b vg")
	if i, err := sparse.Info(); err != nil || i.Capacity != 1<<30 || i.Allocation != 4<<20 {
		t.Errorf("%+v %v", i, err)
	}
	if text, err := sparse.XML(); err != nil || strings.Contains(text, "backingStore") {
		t.Errorf("%v %s", err, text)
	}
	snap := b.create(p, "<volume><name>snap</name><capacity>4194304</capacity><backingStore><path>/dev/vg/a</path></backingStore></volume>")
	b.ran("lvcreate --yes --name snap --size 4194304b --snapshot vg/a")
	if text, err := snap.XML(); err != nil || !strings.Contains(text, "<backingStore>\n    <path>/dev/vg/a</path>") {
		t.Errorf("%v %s", err, text)
	}
	_, err = p.CreateVolume(ctx, strings.Replace(lv("x", "1"), "</volume>", "<backingStore><path>/dev/other/a</path></backingStore></volume>", 1), 0)
	wants(t, err, virterr.NoStorageVol, "a snapshot is of a volume in the same pool")
	wants(t, a.Delete(ctx), virterr.OperationInvalid, "volume 'a' has a snapshot, 'snap'")
	wants(t, snap.Resize(ctx, 12<<20, 0), virterr.OperationUnsupported, "which is a snapshot")
	ok(t, snap.Delete(ctx))
	b.ran("lvremove --force vg/snap")

	wants(t, a.Resize(ctx, 4<<20, 0), virterr.InvalidArg, "Can't shrink capacity")
	wants(t, a.Resize(ctx, 1<<40, 0), virterr.OperationFailed, "Not enough space left")
	ok(t, a.Resize(ctx, 12<<20, 0))
	b.ran("lvresize --yes --size 12582912b vg/a")
	if i, err := a.Info(); err != nil || i.Capacity != 12<<20 {
		t.Errorf("%+v %v", i, err)
	}
	ok(t, a.Resize(ctx, 4<<20, storage.ResizeShrink))
	list, err := p.Volumes()
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Name != "s" {
		t.Errorf("%+v %v", list, err)
	}
}

// TestLogicalData: what is written is there, what was left by others is not.
func TestLogicalData(t *testing.T) {
	b := newHostBed(t)
	p := b.group()
	a := b.create(p, lv("a", "4194304"))
	up, err := a.Upload(512, 0)
	if err != nil {
		t.Fatal(err)
	}
	ok(t, up.Receive(strings.NewReader("hello")))
	wantData := func(v storage.Volume, at int64, want string) {
		t.Helper()
		got, err := os.ReadFile(b.host.Path(v.Path))
		if err != nil || len(got) < 4<<20 || string(got[at:at+int64(len(want))]) != want {
			t.Errorf("%s: %d bytes, %q (%v)", v.Name, len(got), got[at:at+int64(len(want))], err)
		}
	}
	wantData(a, 512, "hello")
	b.host.Ran()
	c, err := p.CloneVolume(ctx, lv("c", "8388608"), a, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines := b.host.Ran()
	if !slices.ContainsFunc(lines, func(s string) bool {
		return strings.HasPrefix(s, "lvrename vg .virtd-partial-") && strings.HasSuffix(s, " c")
	}) {
		t.Errorf("a copy has its name before it is complete: %q", lines)
	}
	wantData(c, 512, "hello")
	wantData(c, 4<<20-4, "left") // which the original's last bytes are, and they were copied
	wantData(c, 8<<20-4, "\x00\x00\x00\x00")

	var out bytes.Buffer
	down, err := c.Download(510, 9)
	if err != nil {
		t.Fatal(err)
	}
	ok(t, down.Send(&out))
	if out.String() != "\x00\x00hello\x00\x00" {
		t.Errorf("%q", out.String())
	}
	ok(t, c.Wipe(ctx))
	wantData(c, 512, "\x00\x00\x00\x00\x00")
	wantData(c, 4<<20-4, "\x00\x00\x00\x00")

	// between pools of different types, and formats
	dir := b.define("<pool type='dir'><name>d</name><target><path>" + b.dir + "/d</path></target></pool>")
	ok(t, dir.Start(storage.BuildAtStart))
	q, err := dir.CloneVolume(ctx, "<volume><name>q</name><target><format type='qcow2'/></target></volume>", a, 0)
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.CloneVolume(ctx, lv("e", "1"), q, 0)
	if err != nil {
		t.Fatal(err)
	}
	wantData(e, 512, "hello")
	wantData(e, 4<<20-4, "left")
	f, err := dir.CloneVolume(ctx, lv("f", "1"), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	wantData(f, 512, "hello")
}

// TestLogicalFailures: a copy that fails leaves no volume, nor does a virtd that is killed.
func TestLogicalFailures(t *testing.T) {
	b := newHostBed(t)
	p := b.group()
	a := b.create(p, lv("a", "4194304"))
	left := func() []string {
		t.Helper()
		entries, err := os.ReadDir(b.host.Path("/dev/vg"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err := p.CloneVolume(gone, lv("c", "4194304"), a, 0)
	if err == nil || !slices.Equal(left(), []string{"a"}) {
		t.Errorf("%q, %v", left(), err)
	}
	b.host.Fail("lvrename", errors.New("no"))
	if _, err := p.CloneVolume(ctx, lv("c", "4194304"), a, 0); err == nil || !slices.Equal(left(), []string{"a"}) {
		t.Errorf("%q, %v", left(), err)
	}
	b.host.Fail("lvremove", errors.New("no")) // as good as a kill
	if _, err := p.CloneVolume(ctx, lv("c", "4194304"), a, 0); err == nil || len(left()) != 2 {
		t.Errorf("%q, %v", left(), err)
	}
	if list, err := p.Volumes(); err != nil || len(list) != 1 {
		t.Errorf("half a copy is a volume: %+v %v", list, err)
	}
	b.host.Fail("lvremove", nil)
	b.reopen()
	if !slices.Equal(left(), []string{"a"}) {
		t.Errorf("after a restart: %q", left())
	}
	p = b.again("p")
	if list, err := p.Volumes(); err != nil || len(list) != 1 || !p.Active() {
		t.Errorf("%+v %v", list, err)
	}
}

func TestLogicalWithoutLVM(t *testing.T) {
	b := newHostBed(t)
	p := b.group()
	for _, program := range []string{"lvs", "vgs", "pvs", "vgcreate"} {
		b.host.Missing(program)
	}
	if text := b.Capabilities(); !strings.Contains(text, "<pool type='logical' supported='no'/>") {
		t.Error(text)
	}
	b.reopen()
	if !b.again("p").Active() {
		t.Error("a pool that cannot be looked after counts as stopped")
	}
	_ = p
	p = b.define("<pool type='logical'><name>q</name><source><device path='/dev/sdc'/></source></pool>")
	b.device("sdc", 64<<20, "")
	wants(t, p.Build(0), virterr.OperationUnsupported, "cannot find 'vgcreate' in path: install package lvm2")
}

// TestLogicalSources: a group that is not made of the devices that the definition names is not started.
func TestLogicalSources(t *testing.T) {
	b := newHostBed(t)
	b.group()
	if text, err := b.FindSources("logical"); err != nil || text != `<sources>
  <source>
    <device path='/dev/sdb'/>
    <name>vg</name>
    <format type='lvm2'/>
  </source>
</sources>
` {
		t.Errorf("%v %s", err, text)
	}
	ok(t, b.again("p").Stop())
	ok(t, b.again("p").Undefine())
	p := b.define(strings.Replace(logicalXML, "/dev/sdb", "/dev/sdc", 1))
	wants(t, p.Start(0), virterr.OperationFailed, "cannot find any matching source devices for logical volume group 'vg'")
	for kind, code := range map[string]virterr.Code{
		"dir": virterr.NoSupport, "fs": virterr.NoSupport, "netfs": virterr.ConfigUnsupported, "rbd": virterr.ConfigUnsupported, "nonsense": virterr.InvalidArg,
	} {
		_, err := b.FindSources(kind)
		wants(t, err, code, kind)
	}
}

// TestLogicalSparseDownload: a device is data all over.
func TestLogicalSparseDownload(t *testing.T) {
	b := newHostBed(t)
	v := b.create(b.group(), lv("a", "4194304"))
	down, err := v.Download(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := &counter{}
	ok(t, down.SendSparse(n))
	if n.data+n.holes != 4<<20 {
		t.Errorf("%+v", n)
	}
}

// counter is a SparseWriter.
type counter struct{ data, holes int64 }

func (c *counter) Write(p []byte) (int, error) { c.data += int64(len(p)); return len(p), nil }

func (c *counter) WriteHole(n int64) error { c.holes += n; return nil }

var _ io.Writer = (*counter)(nil)
