package storage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/hypervisor/block/qcow2"
	"virtd/virterr"
)

// qcow2XML is a document of a qcow2 volume; more goes below <volume>.
func qcow2XML(name, capacity, more string) string {
	return fmt.Sprintf("<volume><name>%s</name><capacity>%s</capacity><allocation>0</allocation><target><format type='qcow2'/></target>%s</volume>",
		name, capacity, more)
}

func backingXML(path, format string) string {
	return fmt.Sprintf("<backingStore><path>%s</path><format type='%s'/></backingStore>", path, format)
}

// contents is what a guest would see of a volume.
func contents(t *testing.T, v Volume, format string) []byte {
	t.Helper()
	c, err := openChain(v.Path, format, false, nil)
	ok(t, err)
	defer c.close()
	p := make([]byte, c.top.Size())
	ok(t, c.top.Read(p, 0))
	return p
}

// soundVolume checks a qcow2 volume.
func soundVolume(t *testing.T, v Volume) {
	t.Helper()
	f, err := os.Open(v.Path)
	ok(t, err)
	defer f.Close()
	r, err := qcow2.Check(qcow2.OSFile{File: f})
	if err != nil || r.Leaks+r.Errors+r.Nonsense != 0 {
		t.Errorf("%s: %+v, %v", v.Name, r, err)
	}
}

// put writes to a qcow2 volume as a guest does.
func put(t *testing.T, v Volume, p []byte, off int64) {
	t.Helper()
	c, err := openChain(v.Path, formatQcow2, true, nil)
	ok(t, err)
	defer c.close()
	ok(t, c.image.Write(p, off))
	ok(t, c.image.Close())
}

func TestQcow2Volumes(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	v := must[Volume](t)(p.CreateVolume(ctx, qcow2XML("v", "3000000", ""), 0))
	if i, err := v.Info(); err != nil || i.Capacity != 3000320 || i.Physical > 1<<20 {
		t.Errorf("%+v, %v", i, err)
	}
	soundVolume(t, v)
	data := bytes.Repeat([]byte("data"), 100<<10)
	put(t, v, data, 65536)

	over := must[Volume](t)(p.CreateVolume(ctx, "<volume><name>over</name><target><format type='qcow2'/></target>"+backingXML("v", "qcow2")+"</volume>", 0))
	if i, err := over.Info(); err != nil || i.Capacity != 3000320 {
		t.Errorf("a capacity that is not given is the backing file's: %+v, %v", i, err)
	}
	if text, err := over.XML(); err != nil || !strings.Contains(text, "<path>"+v.Path+"</path>\n    <format type='qcow2'/>") {
		t.Errorf("%v\n%s", err, text)
	}
	put(t, over, []byte("over"), 1<<20)
	want := make([]byte, 3000320)
	copy(want[65536:], data)
	copy(want[1<<20:], "over")
	for _, c := range []struct{ name, text, format string }{
		{"flat.raw", volumeXML("flat.raw", "1", "0"), formatRaw},
		{"flat", qcow2XML("flat", "1", ""), formatQcow2},
		{"again", qcow2XML("again", "1", backingXML(v.Path, "qcow2")), formatQcow2},
	} {
		clone, err := p.CloneVolume(ctx, c.text, over, 0)
		ok(t, err)
		if !bytes.Equal(contents(t, clone, c.format), want) {
			t.Errorf("%s: the copy differs", c.name)
		}
		if c.format == formatQcow2 {
			soundVolume(t, clone)
		}
		if i, err := clone.Info(); err != nil || c.name == "again" && i.Physical > 1<<20 {
			t.Errorf("%s: %+v, %v: the backing file's data was copied too", c.name, i, err)
		}
	}
	back := must[Volume](t)(p.CloneVolume(ctx, qcow2XML("back", "1", ""), must[Volume](t)(p.Volume("flat.raw")), 0))
	if !bytes.Equal(contents(t, back, formatQcow2), want) {
		t.Error("raw to qcow2 differs")
	}
	ok(t, back.Resize(ctx, 8<<20, 0))
	if i, err := back.Info(); err != nil || i.Capacity != 8<<20 {
		t.Errorf("after resize: %+v, %v", i, err)
	}
	soundVolume(t, back)
	wants(t, back.Resize(ctx, 1<<20, ResizeShrink), virterr.OperationUnsupported, "shrinking a qcow2 volume is not supported")
	wants(t, back.Resize(ctx, 9<<20, ResizeAllocate), virterr.OperationUnsupported, "preallocation is not supported")
	meta := must[Volume](t)(p.CreateVolume(ctx, qcow2XML("meta", "8388608", ""), CreatePreallocMetadata))
	if i, err := meta.Info(); err != nil || i.Physical < 8<<20 || i.Allocation > 1<<20 {
		t.Errorf("preallocated metadata: %+v, %v", i, err)
	}
	soundVolume(t, meta)
}

func TestQcow2VolumesRefused(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	base := must[Volume](t)(p.CreateVolume(ctx, volumeXML("base", "1048576", "0"), 0))
	for _, c := range []struct {
		text  string
		flags CreateFlags
		code  virterr.Code
		want  string
	}{
		{qcow2XML("v", "1", backingXML("/nowhere/base", "raw")), 0, virterr.SystemError, "inaccessible backing store volume /nowhere/base"},
		{qcow2XML("v", "1", backingXML(base.Path, "qcow2")), 0, virterr.SystemError, "inaccessible backing store volume"},
		{qcow2XML("v", "1", backingXML(base.Path, "raw")), CreatePreallocMetadata, virterr.ConfigUnsupported, "metadata preallocation conflicts with backing store"},
		{qcow2XML("v", "4611686018427387904", ""), 0, virterr.ConfigUnsupported, "cannot make qcow2 volume"},
		{qcow2XML("base", "1", ""), 0, virterr.StorageVolExist, "exists already"},
	} {
		_, err := p.CreateVolume(ctx, c.text, c.flags)
		wants(t, err, c.code, c.want)
	}
	ok(t, os.WriteFile(b.path("p/loop"), qcow2Bytes(3, 0, "loop", "qcow2"), 0o600))
	_, err := p.CloneVolume(ctx, volumeXML("copy", "1", "0"), must[Volume](t)(p.Volume("loop")), 0)
	if err == nil {
		t.Error("a loop was copied")
	}
	// a guest writes a header into its raw disk, to read a file of the host in a copy
	ok(t, os.WriteFile(b.path("secret"), bytes.Repeat([]byte("s"), 512), 0o600))
	header := must[Volume](t)(p.CreateVolume(ctx, qcow2XML("header", "512", backingXML(b.path("secret"), "raw")), 0))
	ok(t, os.Rename(header.Path, base.Path))
	_, err = p.CloneVolume(ctx, volumeXML("copy", "1", "0"), must[Volume](t)(p.Volume("base")), 0)
	wants(t, err, virterr.OperationDenied, "is in no active pool")
	list, err := os.ReadDir(b.path("p"))
	if err != nil || len(list) != 2 {
		t.Errorf("left over: %v, %v", list, err)
	}
}

// A volume of a running domain is not changed under it.
func TestVolumeInUse(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	v := must[Volume](t)(p.CreateVolume(ctx, volumeXML("v", "1048576", "0"), 0))
	b.AskUsers(func(path string) []string {
		if path == v.Path {
			return []string{"guest"}
		}
		return nil
	})
	const want = "volume 'v' is still in use by domain 'guest'"
	wants(t, v.Delete(context.Background()), virterr.OperationInvalid, want)
	wants(t, v.Resize(ctx, 2<<20, 0), virterr.OperationInvalid, want)
	wants(t, v.Wipe(ctx), virterr.OperationInvalid, want)
	_, err := v.Upload(0, 0)
	wants(t, err, virterr.OperationInvalid, want)
	d, err := v.Download(0, 0)
	ok(t, err)
	d.Close()
}

// What a virtd that was killed left of a volume is no volume, and goes away.
func TestPartialVolumes(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	left := filepath.Join(b.path("p"), partialPrefix+"x")
	ok(t, os.WriteFile(left, []byte("half"), 0o600))
	if list, err := p.Volumes(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	ok(t, p.Stop())
	ok(t, p.Start(0))
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}
