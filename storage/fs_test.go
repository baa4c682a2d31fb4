package storage_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/storage"
	"virtd/virterr"
)

func (b *hostBed) fsXML(name, device, format string) string {
	return "<pool type='fs'><name>" + name + "</name><source><device path='" + device + "'/><format type='" + format + "'/></source>" +
		"<target><path>" + filepath.Join(b.dir, name) + "</path></target></pool>"
}

func TestFSPoolLifecycle(t *testing.T) {
	b := newHostBed(t)
	dev := b.device("sdb", 4<<20, "")
	p := b.define(b.fsXML("p", dev, "ext4"))
	wants(t, p.Start(0), virterr.SystemError, "(make it with pool-build)")
	ok(t, p.Build(0))
	b.ran() // no flag, no file system
	ok(t, p.Build(storage.BuildKeep))
	b.ran("mkfs.ext4 -q -F /dev/sdb")
	ok(t, p.Start(0))
	if got := b.mounted(); !slices.Equal(got, []string{"/dev/sdb ext4 p"}) {
		t.Errorf("mounted: %q", got)
	}
	mounts, _ := b.host.Mounts()
	if f := mounts[0].Flags; f != unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC {
		t.Errorf("mounted with flags 0x%x", f)
	}
	v, err := p.CreateVolume(ctx, "<volume><name>v</name><capacity>4096</capacity></volume>", 0)
	ok(t, err)
	wants(t, p.Build(storage.BuildDestroy), virterr.OperationInvalid, "already active")
	wants(t, p.Delete(), virterr.OperationInvalid, "still active")

	b.users[v.Path] = "guest"
	wants(t, p.Stop(), virterr.OperationInvalid, "storage pool 'p' is still in use: domain 'guest' has volume 'v'")
	delete(b.users, v.Path)
	b.host.Busy(filepath.Join(b.dir, "p"), true)
	wants(t, p.Stop(), virterr.OperationInvalid, "something on the host has files in it open")
	if !p.Active() || len(b.mounted()) != 1 {
		t.Error("a stop that failed stopped it")
	}
	if _, err := p.Volume("v"); err != nil {
		t.Errorf("after a stop that failed: %v", err)
	}
	b.host.Busy(filepath.Join(b.dir, "p"), false)
	ok(t, p.Stop())
	if got := b.mounted(); len(got) != 0 {
		t.Errorf("mounted after the stop: %q", got)
	}
	wants(t, p.Build(storage.BuildKeep), virterr.OperationInvalid, "device '/dev/sdb' is not empty: it carries ext4; build with --overwrite to destroy that")
	wants(t, p.Build(storage.BuildKeep|storage.BuildDestroy), virterr.InvalidArg, "mutually exclusive")
	wants(t, p.Build(1), virterr.InvalidArg, "unsupported flags (0x1)")
	b.ran()
	ok(t, p.Build(storage.BuildDestroy))
	b.ran("mkfs.ext4 -q -F /dev/sdb")
}

// TestFSBuildRefuses: nothing is destroyed that somebody may want.
func TestFSBuildRefuses(t *testing.T) {
	b := newHostBed(t)
	for _, c := range []struct {
		name, data, format, text string
		code                     virterr.Code
	}{
		{"xfs", "XFSB", "ext4", "carries xfs", virterr.OperationInvalid},
		{"luks", "LUKS\xba\xbe", "ext4", "carries crypto_LUKS", virterr.OperationInvalid},
		{"unknown", "\x00\x00data", "ext4", "carries data of an unknown kind at byte 2", virterr.OperationInvalid},
		{"auto", "", "auto", "<format type='auto'/>; name one", virterr.ConfigUnsupported},
		{"foreign", "", "ocfs2", "making a filesystem of type 'ocfs2' is not supported", virterr.ConfigUnsupported},
		{"noprogram", "", "vfat", "cannot find 'mkfs.vfat' in path: install", virterr.OperationUnsupported},
	} {
		dev := b.device(c.name, 4<<20, c.data)
		before, err := os.ReadFile(b.host.Path(dev))
		ok(t, err)
		b.host.Missing("mkfs.vfat")
		p := b.define(b.fsXML(c.name, dev, c.format))
		wants(t, p.Build(storage.BuildKeep), c.code, c.text)
		wants(t, p.Start(storage.BuildAtStart|storage.BuildNoOverwrite), c.code, c.text)
		after, err := os.ReadFile(b.host.Path(dev))
		ok(t, err)
		if string(before) != string(after) {
			t.Errorf("%s: the device was changed", c.name)
		}
		b.ran()
	}
	p := b.define(b.fsXML("none", "/dev/none", "ext4"))
	wants(t, p.Build(storage.BuildDestroy), virterr.SystemError, "cannot open source device '/dev/none': No such file or directory")

	dev := b.device("used", 4<<20, "")
	p = b.define(b.fsXML("used", dev, "ext4"))
	b.users[dev] = "guest"
	wants(t, p.Build(storage.BuildDestroy), virterr.OperationInvalid, "is a disk of the running domain 'guest'")
	delete(b.users, dev)
	ok(t, b.host.Mount(storage.Mount{Source: dev, Target: b.dir, Type: "ext4"}))
	wants(t, p.Build(storage.BuildDestroy), virterr.OperationInvalid, "source device '/dev/used' is mounted at '"+b.dir+"'")
	b.ran()
	b.host.Fail("mkfs.ext4", errors.New("no space"))
	ok(t, b.host.Unmount(b.dir))
	wants(t, p.Build(storage.BuildDestroy), virterr.InternalError, "Failed to make filesystem of type 'ext4' on device '/dev/used': no space")
}

func TestFSPoolFormats(t *testing.T) {
	b := newHostBed(t)
	for _, c := range []struct {
		name, data, format, mounted, text string
	}{
		{"found", "XFSB", "auto", "xfs", ""},
		{"told", "XFSB", "hfs+", "hfsplus", ""},
		{"none", "", "auto", "", "has no filesystem that is known"},
		{"lvm", strings.Repeat("\x00", 512) + "LABELONE", "auto", "", "carries LVM2_member, which is not one filesystem"},
		{"two", "XFSB" + strings.Repeat("\x00", 508) + "LABELONE", "auto", "", "carries xfs, LVM2_member, which is not one"},
	} {
		p := b.define(b.fsXML(c.name, b.device(c.name, 4<<20, c.data), c.format))
		err := p.Start(storage.BuildAtStart)
		if c.text != "" {
			wants(t, err, virterr.OperationInvalid, c.text)
			if p.Active() {
				t.Error(c.name, "is active")
			}
			continue
		}
		ok(t, err)
		if got := b.mounted(); !slices.Contains(got, "/dev/"+c.name+" "+c.mounted+" "+c.name) {
			t.Errorf("%s: mounted %q", c.name, got)
		}
	}
}

// TestFSPoolAfterKill: whatever is mounted when virtd is killed is found by the next one, and what somebody else unmounted
// is not taken for it.
func TestFSPoolAfterKill(t *testing.T) {
	b := newHostBed(t)
	p := b.define(b.fsXML("p", b.device("p", 4<<20, "XFSB"), "auto"))
	ok(t, p.Start(storage.BuildAtStart))
	b.reopen()
	if p = b.again("p"); !p.Active() {
		t.Error("a mounted pool is not found")
	}
	ok(t, b.host.Unmount(filepath.Join(b.dir, "p")))
	wants(t, p.Refresh(), virterr.OperationInvalid, "is not mounted at")
	_, err := p.CreateVolume(ctx, "<volume><name>v</name><capacity>4096</capacity></volume>", 0)
	wants(t, err, virterr.OperationInvalid, "is not mounted at")
	b.reopen()
	if p = b.again("p"); p.Active() {
		t.Error("a pool that was unmounted is active")
	}
	ok(t, p.Start(0))
	ok(t, p.Stop())

	// killed between the mount and the answer
	ok(t, b.host.Mount(storage.Mount{Source: "/dev/p", Target: filepath.Join(b.dir, "p"), Type: "xfs"}))
	ok(t, p.Start(0))
	if got := b.mounted(); len(got) != 1 {
		t.Errorf("mounted twice: %q", got)
	}
	ok(t, b.host.Unmount(filepath.Join(b.dir, "p"))) // somebody was faster
	ok(t, p.Stop())

	ok(t, b.host.Mount(storage.Mount{Source: b.device("other", 4<<20, ""), Target: filepath.Join(b.dir, "p"), Type: "xfs"}))
	wants(t, p.Start(0), virterr.OperationInvalid, "has '/dev/other' mounted already")
}

func TestSourcesThatClash(t *testing.T) {
	b := newHostBed(t)
	dev := b.device("sdb", 4<<20, "XFSB")
	image, link := filepath.Join(b.dir, "image"), filepath.Join(b.dir, "link")
	ok(t, os.WriteFile(image, nil, 0o600))
	ok(t, os.Symlink(image, link))
	b.define(b.fsXML("image", image, "auto"))
	_, err := b.Define(b.fsXML("link", link, "auto"))
	wants(t, err, virterr.OperationFailed, "Storage source conflict with pool: 'image'")
	b.define(b.fsXML("p", dev, "auto"))
	_, err = b.Define(b.fsXML("q", dev, "auto"))
	wants(t, err, virterr.OperationFailed, "Storage source conflict with pool: 'p'")
	_, err = b.Define("<pool type='logical'><name>vg</name><source><device path='/dev/sdb'/></source></pool>")
	wants(t, err, virterr.OperationFailed, "Storage source conflict with pool: 'p'")
	b.define("<pool type='logical'><name>a</name><source><name>vg</name></source></pool>")
	_, err = b.Define("<pool type='logical'><name>b</name><source><name>vg</name></source></pool>")
	wants(t, err, virterr.OperationFailed, "Storage source conflict with pool: 'a'")
}

// TestTransientFS: a pool that could not be created leaves nothing, neither record nor mount nor name.
func TestTransientFS(t *testing.T) {
	b := newHostBed(t)
	xml := b.fsXML("p", b.device("p", 4<<20, ""), "auto")
	_, err := b.Create(xml, storage.BuildAtStart)
	wants(t, err, virterr.OperationInvalid, "has no filesystem")
	if len(b.List(0)) != 0 || len(b.mounted()) != 0 {
		t.Error("something stays")
	}
	b.reopen()
	if len(b.List(0)) != 0 {
		t.Error("something stays on record")
	}
	p, err := b.Create(strings.Replace(xml, "auto", "ext4", 1), storage.BuildAtStart|storage.BuildNoOverwrite)
	if err != nil {
		t.Fatal(err)
	}
	ok(t, p.Stop())
	if len(b.List(0)) != 0 || len(b.mounted()) != 0 {
		t.Error("a transient pool stays")
	}
}
