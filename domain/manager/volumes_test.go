package manager

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"virtd/domain"
	"virtd/driver/fake"
	"virtd/storage"
	"virtd/virterr"
)

// volumeBed is a fixture over a pool named p with the volumes a and b.
func volumeBed(t *testing.T, drv *fake.Driver) (*fixture, *storage.Pool, *storage.Manager) {
	t.Helper()
	dir := t.TempDir()
	pools, err := storage.Open(storage.Config{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pools.Close)
	p, err := pools.Define("<pool type='dir'><name>p</name><target><path>" + filepath.Join(dir, "p") + "</path></target></pool>")
	if err == nil {
		err = p.Start(storage.BuildAtStart)
	}
	for _, name := range []string{"a", "b"} {
		if err == nil {
			_, err = p.CreateVolume(context.Background(), "<volume><name>"+name+"</name><capacity>4096</capacity></volume>", 0)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, drv: drv, store: newMemStore(), saves: t.TempDir(), volumes: pools}
	f.open()
	t.Cleanup(func() { f.m.Close() })
	pools.AskUsers(f.m.ImageUsers)
	return f, p, pools
}

func onVolume(name string) string {
	return strings.Replace(testXML(name, ""), "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/img/"+name+".raw'/>",
		"<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='a'/>", 1)
}

// TestVolumeDisk: a domain's disk is the volume that it names, and dumpxml goes on naming that, over a restart of virtd too.
func TestVolumeDisk(t *testing.T) {
	f, p, _ := volumeBed(t, &fake.Driver{})
	ctx := context.Background()
	vol, err := p.Volume("a")
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.m.Define(ctx, onVolume("x"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if disk, err := d.StoredDisk("vda"); err != nil || disk.Path != vol.Path {
		t.Errorf("the disk of the domain that is off is %+v (%v)", disk, err)
	}
	if disk, err := d.StoredDisk(vol.Path); err != nil || disk.Target != "vda" {
		t.Errorf("%+v by its path (%v)", disk, err)
	}
	given := ""
	f.drv.OnStart = func(_ context.Context, live *domain.Definition) error {
		given = live.Disks()[0].Path
		return nil
	}
	if err := d.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if given != vol.Path {
		t.Errorf("the engine got %q", given)
	}
	check := func() {
		t.Helper()
		for _, flags := range []domain.XMLFlags{0, domain.XMLSecure, domain.XMLInactive, domain.XMLMigratable} {
			text, err := d.XML(flags)
			if err != nil || !strings.Contains(text, "<source pool='p' volume='a'") || strings.Contains(text, vol.Path) {
				t.Errorf("flags %d: %v\n%s", flags, err, text)
			}
		}
		if _, err := d.BlockStats(ctx, vol.Path); err != nil {
			t.Error(err)
		}
		if _, err := d.BlockStats(ctx, "vda"); err != nil {
			t.Error(err)
		}
		if err := d.ResizeDisk(ctx, vol.Path, 8192); err != nil {
			t.Error(err)
		}
		if users := f.m.ImageUsers(vol.Path); !slices.Equal(users, []string{"x"}) {
			t.Errorf("used by %v", users)
		}
		if err := vol.Delete(ctx); !virterr.Is(err, virterr.OperationInvalid) || !strings.Contains(err.Error(), "domain 'x'") {
			t.Errorf("deleted while it is in use: %v", err)
		}
	}
	check()
	f.replace()
	if d, err = f.m.LookupByName("x"); err != nil {
		t.Fatal(err)
	}
	check()
}

// TestVolumeIsMissing: what libvirt says when there is no such volume, and nothing runs or stays.
func TestVolumeIsMissing(t *testing.T) {
	f, p, _ := volumeBed(t, &fake.Driver{})
	ctx := context.Background()
	for _, c := range []struct {
		old, new string
		code     virterr.Code
		text     string
	}{
		{"pool='p'", "pool='q'", virterr.NoStoragePool, "no storage pool with matching name 'q'"},
		{"volume='a'", "volume='z'", virterr.NoStorageVol, "no storage vol with matching name 'z'"},
		{"volume='a'", "volume='../p/a'", virterr.NoStorageVol, "no storage vol with matching name '../p/a'"},
	} {
		d, err := f.m.Define(ctx, strings.Replace(onVolume("x"), c.old, c.new, 1), 0)
		if err == nil {
			err = d.Start(ctx, 0)
		}
		if !virterr.Is(err, c.code) || !strings.Contains(err.Error(), c.text) || d.Active() {
			t.Errorf("%s: %v", c.new, err)
		}
		if err := d.Undefine(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	d, err := f.m.Define(ctx, onVolume("x"), 0)
	if err == nil {
		err = d.Start(ctx, 0)
	}
	if !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "storage pool 'p' containing volume 'a' is not active") {
		t.Error(err)
	}
	if _, err := d.StoredDisk("vda"); err == nil {
		t.Error("a disk in a stopped pool is measured")
	}
	f.volumes = nil
	f.replace()
	if d, err = f.m.LookupByName("x"); err == nil {
		err = d.Start(ctx, 0)
	}
	if !virterr.Is(err, virterr.NoStoragePool) {
		t.Errorf("without pools: %v", err)
	}
}

// TestVolumeHotplug: a volume is attached as any disk, once, and detached.
func TestVolumeHotplug(t *testing.T) {
	f, _, _ := volumeBed(t, &fake.Driver{})
	ctx := context.Background()
	d := f.started("x", "")
	const disk = "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='b'/><target dev='vdb' bus='virtio'/></disk>"
	if err := d.AttachDevice(ctx, strings.Replace(disk, "'b'", "'none'", 1), AffectLive); !virterr.Is(err, virterr.NoStorageVol) {
		t.Errorf("a volume that is not there: %v", err)
	}
	if err := d.AttachDevice(ctx, disk, AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
	if text, err := d.XML(0); err != nil || !strings.Contains(text, "<source pool='p' volume='b'") {
		t.Errorf("%v\n%s", err, text)
	}
	err := d.AttachDevice(ctx, disk, AffectLive)
	if !virterr.Is(err, virterr.XMLError) || !strings.Contains(err.Error(), "target 'vdb' duplicated for disk sources 'p/b' and 'p/b'") {
		t.Errorf("attached twice: %v", err)
	}
	if _, live, err := d.engine(); err != nil || !strings.HasSuffix(live.Disks()[1].Path, "/p/b") {
		t.Errorf("the live disk has no path (%v)", err)
	}
	if err := d.DetachDevice(ctx, disk, AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
}

// TestVolumeSaved: a saved guest names its volume, which is looked up again when it is restored.
func TestVolumeSaved(t *testing.T) {
	f, p, pools := volumeBed(t, &fake.Driver{})
	ctx := context.Background()
	d, err := f.m.Define(ctx, onVolume("x"), 0)
	if err == nil {
		err = d.Start(ctx, 0)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err == nil {
		err = d.Save(ctx, path, "", 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	source, err := pools.Source("p", "a")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), source.Path) || !strings.Contains(string(text), "volume='a'") {
		t.Errorf("the image has a path in it: %v", err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := f.m.Restore(ctx, path, "", 0); !virterr.Is(err, virterr.ConfigUnsupported) {
		t.Errorf("restored without its volume: %v", err)
	}
	if err := p.Start(0); err != nil {
		t.Fatal(err)
	}
	if err := f.m.Restore(ctx, path, "", 0); err != nil {
		t.Fatal(err)
	}
	if _, live, lerr := d.engine(); lerr != nil || live.Disks()[0].Path != source.Path {
		t.Error(lerr)
	}
}
