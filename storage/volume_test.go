package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"virtd/virterr"
)

var ctx = context.Background()

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestCreateVolume(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	sparse := must[Volume](t)(p.CreateVolume(ctx, volumeXML("sparse", "1048576", "0"), 0))
	full := must[Volume](t)(p.CreateVolume(ctx, volumeXML("full", "1048576", ""), 0))
	half := must[Volume](t)(p.CreateVolume(ctx, volumeXML("half", "1048576", "524288"), 0))
	for v, least := range map[Volume]int64{sparse: 0, half: 1 << 19, full: 1 << 20} {
		i := must[VolumeInfo](t)(v.Info())
		if got := blocks(t, v.Path); i.Capacity != 1<<20 || got < least || got > least+65536 || uint64(got) != i.Allocation {
			t.Errorf("%s: %+v, %d bytes on disk, want %d", v.Name, i, got, least)
		}
		if st, err := os.Stat(v.Path); err != nil || st.Mode() != 0o600 {
			t.Errorf("%v %v", st, err)
		}
	}
	_, err := p.CreateVolume(ctx, volumeXML("full", "1", ""), 0)
	wants(t, err, virterr.StorageVolExist, "storage volume 'full' exists already")
	if len(bytesOf(t, full.Path)) != 1<<20 {
		t.Error("the refused creation changed the file that was there")
	}
	ok(t, os.Mkdir(b.path("p/dir"), 0o700))
	_, err = p.CreateVolume(ctx, volumeXML("dir", "1", ""), 0)
	wants(t, err, virterr.SystemError, "cannot create path '"+b.path("p/dir")+"': File exists")
	ok(t, os.Symlink(b.path("outside"), b.path("p/link")))
	if _, err = p.CreateVolume(ctx, volumeXML("link", "1", ""), 0); err == nil {
		t.Error("creation followed a link")
	}
	if _, err := os.Lstat(b.path("outside")); err == nil {
		t.Error("a file was made outside the pool")
	}
	_, err = p.CreateVolume(ctx, volumeXML("huge", "8", "0")+"", CreateReflink)
	wants(t, err, virterr.InvalidArg, "unsupported flags")
	_, err = p.CreateVolume(ctx, volumeXML("pre", "8", "0"), CreatePreallocMetadata)
	wants(t, err, virterr.ConfigUnsupported, "metadata preallocation")
	ok(t, p.Stop())
	_, err = p.CreateVolume(ctx, volumeXML("late", "8", "0"), 0)
	wants(t, err, virterr.OperationInvalid, "storage pool 'p' is not active")
}

// What does not fit is refused, and nothing of it is left.
func TestCreateOnFullDisk(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	i := must[Info](t)(p.Info())
	_, err := p.CreateVolume(ctx, volumeXML("big", "1", "")+"", 0)
	ok(t, err)
	_, err = p.CreateVolume(ctx, strings.Replace(volumeXML("huge", "N", ""), "N", uintText(i.Available+1<<30), 1), 0)
	wants(t, err, virterr.SystemError, "in file '"+b.path("p/huge")+"'")
	if _, err := os.Lstat(b.path("p/huge")); err == nil {
		t.Error("the unfinished file is still there")
	}
	wants(t, err, virterr.SystemError, "No space left on device")
	if got := must[Info](t)(p.Info()); got.Available+1<<28 < i.Available {
		t.Errorf("space is gone: %d of %d", got.Available, i.Available)
	}
}

// A creation that is given up leaves nothing.
func TestCreateCancelled(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	src := must[Volume](t)(p.CreateVolume(ctx, volumeXML("src", "4096", ""), 0))
	ok(t, os.WriteFile(src.Path, []byte("data"), 0o600))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.CloneVolume(gone, volumeXML("dst", "4096", ""), src, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Lstat(b.path("p/dst")); err == nil {
		t.Error("the unfinished file is still there")
	}
	ok(t, p.Stop()) // no job is left either
}

func TestListVolumes(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	for _, n := range []string{"b", "a", ".hidden"} {
		ok(t, os.WriteFile(b.path("p/"+n), nil, 0o600))
	}
	ok(t, os.Mkdir(b.path("p/sub"), 0o700))
	ok(t, syscall.Mkfifo(b.path("p/fifo"), 0o600))
	ok(t, os.Symlink("a", b.path("p/link")))
	ok(t, os.Symlink("nowhere", b.path("p/dangling")))
	ok(t, os.WriteFile(b.path("p/new\nline"), nil, 0o600))
	ok(t, os.WriteFile(b.path("p/\xff"), nil, 0o600))
	var names []string
	for _, v := range must[[]Volume](t)(p.Volumes()) {
		names = append(names, v.Name)
	}
	if got := strings.Join(names, " "); got != ".hidden a b link" {
		t.Error(got)
	}
	for _, n := range []string{"sub", "fifo", "dangling", "nobody", "", ".", "..", "../p/a", "/etc/passwd"} {
		_, err := p.Volume(n)
		wants(t, err, virterr.NoStorageVol, "no storage vol with matching name '"+n+"'")
	}
	v := must[Volume](t)(b.VolumeByPath(b.path("p/a")))
	if w := must[Volume](t)(b.VolumeByKey(v.Path)); w != v || must[Volume](t)(b.VolumeByPath(b.path("x/../p//a"))) != v {
		t.Error("path, key and unclean path name different volumes")
	}
	for _, path := range []string{b.path("p/zz"), b.path("a"), "", "a", "/"} {
		_, err := b.VolumeByPath(path)
		wants(t, err, virterr.NoStorageVol, "Storage volume not found: no storage vol with matching path '"+path+"'")
	}
	_, err := b.VolumeByKey("k")
	wants(t, err, virterr.NoStorageVol, "no storage vol with matching key k")
	_, err = b.Manager.Volume("q", "a")
	wants(t, err, virterr.NoStoragePool, "no storage pool with matching name 'q'")
}

func TestClone(t *testing.T) {
	b := newBed(t)
	p, q := b.pool("p"), b.pool("q")
	src := must[Volume](t)(p.CreateVolume(ctx, volumeXML("src", "4194304", "0"), 0))
	f, err := os.OpenFile(src.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("x"), 100_000)
	if _, err := f.WriteAt(data, 2<<20+5); err != nil {
		t.Fatal(err)
	}
	f.Close()
	sparse := must[Volume](t)(q.CloneVolume(ctx, volumeXML("sparse", "1", "0"), src, 0))
	full := must[Volume](t)(p.CloneVolume(ctx, volumeXML("full", "5242880", ""), src, 0))
	want := bytesOf(t, src.Path)
	if got := bytesOf(t, sparse.Path); !bytes.Equal(got, want) || blocks(t, sparse.Path) > 1<<20 {
		t.Errorf("sparse copy: %d bytes, %d on disk", len(got), blocks(t, sparse.Path))
	}
	if got := bytesOf(t, full.Path); len(got) != 5<<20 || !bytes.Equal(got[:4<<20], want) || blocks(t, full.Path) < 5<<20 {
		t.Errorf("full copy: %d bytes, %d on disk", len(got), blocks(t, full.Path))
	}
	_, err = p.CloneVolume(ctx, volumeXML("full", "1", "0"), src, 0)
	wants(t, err, virterr.StorageVolExist, "'full' exists already")
	_, err = p.CloneVolume(ctx, volumeXML("src", "1", "0"), src, 0)
	wants(t, err, virterr.StorageVolExist, "'src' exists already")
	ok(t, os.WriteFile(b.path("p/img"), qcow2Bytes(3, 1<<30, "", ""), 0o600))
	_, err = p.CloneVolume(ctx, volumeXML("c", "1", "0"), must[Volume](t)(p.Volume("img")), 0)
	wants(t, err, virterr.OperationFailed, "corrupt image")
	if _, err := p.CloneVolume(ctx, volumeXML("ref", "1", "0"), src, CreateReflink); err != nil {
		wants(t, err, virterr.SystemError, "failed to clone files from '"+src.Path+"'")
		if _, err := os.Lstat(b.path("p/ref")); err == nil {
			t.Error("the unfinished file is still there")
		}
	} else if !bytes.Equal(bytesOf(t, b.path("p/ref")), want) {
		t.Error("the reflink copy differs")
	}
}

func TestResize(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	v := must[Volume](t)(p.CreateVolume(ctx, volumeXML("v", "1048576", "0"), 0))
	size := func() int64 { st, _ := os.Stat(v.Path); return st.Size() }
	for _, s := range []struct {
		size  uint64
		flags ResizeFlags
		want  int64
	}{{2 << 20, 0, 2 << 20}, {1 << 20, ResizeDelta, 3 << 20}, {1 << 20, ResizeShrink, 1 << 20},
		{1 << 19, ResizeDelta | ResizeShrink, 1 << 19}, {1 << 20, ResizeDelta | ResizeShrink, 0}, {1 << 20, ResizeAllocate, 1 << 20}} {
		if err := v.Resize(ctx, s.size, s.flags); err != nil || size() != s.want {
			t.Errorf("%+v: %d, %v", s, size(), err)
		}
	}
	if blocks(t, v.Path) < 1<<20 {
		t.Error("not allocated")
	}
	wants(t, v.Resize(ctx, 1, 0), virterr.InvalidArg, "Can't shrink capacity below current capacity unless shrink flag explicitly specified")
	wants(t, v.Resize(ctx, 1<<63, 0), virterr.OperationFailed, "Not enough space left in storage pool")
	wants(t, v.Resize(ctx, 1<<64-1, ResizeDelta), virterr.OperationFailed, "Not enough space left in storage pool")
	wants(t, v.Resize(ctx, 1, 8), virterr.InvalidArg, "unsupported flags (0x8) in function virStorageVolResize")
	ok(t, os.WriteFile(b.path("p/img"), qcow2Bytes(3, 1<<30, "", ""), 0o600))
	wants(t, must[Volume](t)(p.Volume("img")).Resize(ctx, 1<<31, 0), virterr.OperationFailed, "corrupt image")
}

func TestWipeAndDelete(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	v := must[Volume](t)(p.CreateVolume(ctx, volumeXML("v", "3000000", "0"), 0))
	f, err := os.OpenFile(v.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte("secret"), 200_000), 1_000_001)
	ok(t, err)
	ok(t, f.Close())
	before := blocks(t, v.Path)
	ok(t, v.Wipe(ctx))
	if got := bytesOf(t, v.Path); len(got) != 3_000_000 || len(bytes.Trim(got, "\x00")) != 0 || blocks(t, v.Path) > before {
		t.Errorf("%d bytes, %d on disk", len(got), blocks(t, v.Path))
	}
	ok(t, os.WriteFile(b.path("outside"), []byte("x"), 0o600))
	ok(t, os.Symlink(b.path("outside"), b.path("p/link")))
	ok(t, must[Volume](t)(p.Volume("link")).Delete(context.Background()))
	if _, err := os.Stat(b.path("outside")); err != nil {
		t.Error("deleting a link deleted what it points to")
	}
	ok(t, v.Delete(context.Background()))
	for _, err := range []error{v.Delete(context.Background()), v.Wipe(ctx), v.Resize(ctx, 1, 0), errOf(v.Info()), errOf(v.XML()), errOf(v.Upload(0, 0)), errOf(v.Download(0, 0))} {
		wants(t, err, virterr.NoStorageVol, "no storage vol with matching name 'v'")
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestTransfer(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	v := must[Volume](t)(p.CreateVolume(ctx, volumeXML("v", "100", "0"), 0))
	up := func(offset, length uint64, data string) error {
		return must[*Transfer](t)(v.Upload(offset, length)).Receive(strings.NewReader(data))
	}
	ok(t, up(10, 0, "hello"))
	ok(t, up(20, 3, "abc"))
	wants(t, up(30, 3, "abcd"), virterr.OperationFailed, "more data than the 3 bytes that were announced for volume 'v'")
	want := make([]byte, 100)
	copy(want[10:], "hello")
	copy(want[20:], "abc")
	if got := bytesOf(t, v.Path); !bytes.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, d := range []struct {
		offset, length uint64
		want           string
	}{{0, 0, string(want)}, {10, 5, "hello"}, {98, 5, "\x00\x00"}, {200, 0, ""}} {
		var out bytes.Buffer
		if err := must[*Transfer](t)(v.Download(d.offset, d.length)).Send(&out); err != nil || out.String() != d.want {
			t.Errorf("%+v: %q %v", d, out.String(), err)
		}
	}
	_, err := v.Upload(1<<63, 0)
	wants(t, err, virterr.InvalidArg, "larger than any file can be")

	// While a client writes nobody else may change the volume, nor stop the pool.
	r, w := io.Pipe()
	tr := must[*Transfer](t)(v.Upload(0, 0))
	done := make(chan error)
	go func() { done <- tr.Receive(r) }()
	wants(t, v.Delete(context.Background()), virterr.OperationInvalid, "volume 'v' is still in use.")
	wants(t, p.Stop(), virterr.OperationInvalid, "pool 'p' has asynchronous jobs running.")
	w.CloseWithError(errors.New("the client left"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the client left") {
		t.Error(err)
	}
	ok(t, v.Delete(context.Background()))
	ok(t, p.Stop())
}

// qcow2 makes a header as QEMU writes it.
func qcow2Bytes(version uint32, size uint64, backing, format string) []byte {
	h := make([]byte, 4096)
	be := binary.BigEndian
	be.PutUint32(h, qcow2Magic)
	be.PutUint32(h[4:], version)
	be.PutUint32(h[20:], 16)
	be.PutUint64(h[24:], size)
	at := 72
	if version == 3 {
		be.PutUint64(h[80:], qcow2LazyRefcounts)
		be.PutUint32(h[100:], 104)
		at = 104
	}
	if format != "" {
		be.PutUint32(h[at:], qcow2BackingFormat)
		be.PutUint32(h[at+4:], uint32(len(format)))
		copy(h[at+8:], format)
	}
	if backing != "" {
		be.PutUint64(h[8:], 2048)
		be.PutUint32(h[16:], uint32(len(backing)))
		copy(h[2048:], backing)
	}
	return h
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	good := qcow2Bytes(3, 1<<40, "base.img", "raw")
	for name, tt := range map[string]struct {
		data                         []byte
		format, backing, backingType string
		capacity                     uint64
	}{
		"raw":      {make([]byte, 5000), "raw", "", "", 5000},
		"empty":    {nil, "raw", "", "", 0},
		"v3":       {good, "qcow2", filepath.Join(dir, "base.img"), "raw", 1 << 40},
		"v2":       {qcow2Bytes(2, 7, "/abs", ""), "qcow2", "/abs", "", 7},
		"url":      {qcow2Bytes(2, 7, "nbd://host/x", ""), "qcow2", "nbd://host/x", "", 7},
		"no xml":   {qcow2Bytes(3, 7, "/a\x01b", "raw"), "qcow2", "", "", 7}, // a guest wrote it to make the document unreadable
		"no xml 2": {qcow2Bytes(3, 7, "/abs", "r\x1bw"), "qcow2", "/abs", "", 7},
		"v9":       {qcow2Bytes(9, 7, "", ""), "raw", "", "", 4096},
		"short":    {good[:90], "raw", "", "", 90},
		"cut":      {good[:2050], "qcow2", "", "", 1 << 40},
		"clusters": {append(append([]byte{}, good[:20]...), append([]byte{0, 0, 0, 63}, good[24:]...)...), "raw", "", "", 4096},
	} {
		path := filepath.Join(dir, name)
		ok(t, os.WriteFile(path, tt.data, 0o600))
		im := must[image](t)(inspect(path))
		if im.format != tt.format || im.backing != tt.backing || im.backingType != tt.backingType || im.capacity != tt.capacity {
			t.Errorf("%s: %s %d %q %q", name, im.format, im.capacity, im.backing, im.backingType)
		}
	}
}
