package storage

import (
	"bytes"
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRawStaysRaw: a guest that writes a header into its raw disk does not change what the volume is. Where the filesystem
// cannot note what a volume is, the header is believed, as by libvirt.
func TestRawStaysRaw(t *testing.T) {
	b := newBed(t)
	p := b.pool("p")
	can := unix.Setxattr(b.path("p"), formatAttr, []byte("x"), 0) == nil
	want := formatRaw
	if !can {
		t.Log("this filesystem has no extended attributes of users")
		want = formatQcow2
	}
	header := qcow2Bytes(3, 1<<40, "/etc/shadow", "raw")
	check := func(v Volume, want string, capacity uint64) {
		t.Helper()
		im, err := v.inspect()
		if err != nil || im.format != want || im.capacity != capacity || want == formatRaw && im.backing != "" {
			t.Errorf("%s is %s of %d bytes over %q (%v)", v.Name, im.format, im.capacity, im.backing, err)
		}
	}
	capacity := func(raw uint64) uint64 {
		if want == formatRaw {
			return raw
		}
		return 1 << 40
	}
	guest := func(v Volume) {
		t.Helper()
		f, err := os.OpenFile(v.Path, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(header, 0)
			f.Close()
		}
		ok(t, err)
	}
	made := must[Volume](t)(p.CreateVolume(ctx, volumeXML("made", "1048576", "0"), 0))
	guest(made)
	check(made, want, capacity(1<<20))
	if can {
		ok(t, made.Resize(ctx, 2<<20, 0))
		check(made, formatRaw, 2<<20)
		ok(t, made.Wipe(ctx)) // which would have read the chain of a qcow2 volume in a copy
		guest(made)
		clone := must[Volume](t)(p.CloneVolume(ctx, volumeXML("clone", "1", "0"), made, 0))
		check(clone, formatRaw, 2<<20)
	}

	// a file that came from elsewhere is what its header says, until it is given to a guest as a raw disk
	ok(t, os.WriteFile(b.path("p/found"), header, 0o600))
	found := must[Volume](t)(p.Volume("found"))
	check(found, formatQcow2, 1<<40)
	b.Given(found.Path, formatRaw)
	check(found, want, capacity(uint64(len(header))))
	b.Given(found.Path, formatQcow2)
	check(found, formatQcow2, 1<<40)
	b.Given(b.path("elsewhere"), formatRaw)

	// what a client uploads is what it says it is
	up := must[*Transfer](t)(made.Upload(0, 0))
	ok(t, up.Receive(bytes.NewReader(header)))
	check(made, formatQcow2, 1<<40)
	up = must[*Transfer](t)(made.Upload(0, 0))
	ok(t, up.Receive(bytes.NewReader(make([]byte, 512))))
	guest(made)
	check(made, want, capacity(2<<20))
	q := must[Volume](t)(p.CreateVolume(context.Background(), "<volume><name>q</name><capacity>4096</capacity><target><format type='qcow2'/></target></volume>", 0))
	check(q, formatQcow2, 4096)
}
