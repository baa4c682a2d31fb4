package daemon_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"virtd/domain/manager"
	"virtd/driver"
	"virtd/nodedev"
)

// TestAllEvents: python3-libvirt gets every kind of event that happens to domains, networks, pools, devices and secrets, and
// none after it deregistered.
func TestAllEvents(t *testing.T) {
	needClients(t)
	b := newTestbed(t)
	b.writeXML(t)
	p := runPython(t, "allevents.py", "qemu:///system?socket="+b.sock)
	p.expect("registered 27")
	do := func(lines []string, actions ...func() error) {
		t.Helper()
		for _, action := range actions {
			if err := action(); err != nil {
				t.Fatal(err)
			}
		}
		p.expect(lines...)
	}
	ctx := context.Background()
	dom, err := b.mgr.Define(ctx, replace(demoXML, "IMAGE", b.dir+"/disk.img"), 0)
	if err != nil {
		t.Fatal(err)
	}
	p.expect("lifecycle demo 0 0")
	do([]string{"lifecycle demo 4 0", "lifecycle demo 2 0"}, func() error { return dom.Start(ctx, 0) })
	engine := b.driver.Engine("demo")
	rng := "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
	do([]string{"lifecycle demo 3 0", "lifecycle demo 4 0"}, func() error { return dom.Suspend(ctx) }, func() error { return dom.Resume(ctx) })
	do([]string{"reboot demo"}, func() error { return dom.Reset(ctx) })
	do([]string{"balloon_change demo 262144"}, func() error { return dom.SetMemory(ctx, 256<<10, manager.AffectLive) })
	do([]string{"tunable demo {'cputune.vcpupin1': '0-1,3'}"}, func() error { return dom.PinVCPU(ctx, 1, []byte{0b1011}, manager.AffectLive) })
	do([]string{fmt.Sprintf("io_error demo %s/disk.img virtio-disk0 2", b.dir), fmt.Sprintf("io_error_reason demo %s/disk.img virtio-disk0 2 enospc", b.dir)},
		func() error {
			engine.Emit(driver.IOFailed{Alias: "virtio-disk0", Write: true, Reason: "enospc"})
			return nil
		})
	do([]string{"metadata_change demo 0 None", "metadata_change demo 1 None", "metadata_change demo 2 urn:example"},
		func() error {
			return dom.SetMetadata(ctx, manager.MetadataDescription, "text", "", "", manager.AffectLive)
		},
		func() error { return dom.SetMetadata(ctx, manager.MetadataTitle, "title", "", "", manager.AffectLive) },
		func() error {
			return dom.SetMetadata(ctx, manager.MetadataElement, "<note/>", "n", "urn:example", manager.AffectLive)
		})
	do([]string{"device_added demo rng0", "device_removed demo rng0"},
		func() error { return dom.AttachDevice(ctx, rng, manager.AffectLive) }, func() error { return dom.DetachDevice(ctx, rng, manager.AffectLive) })
	do([]string{"device_added demo rng0", "device_removal_failed demo rng0"},
		func() error { return dom.AttachDevice(ctx, rng, manager.AffectLive) },
		func() error {
			engine.Cling(true)
			if err := dom.DetachDevice(ctx, rng, manager.AffectLive); err == nil {
				t.Error("a device that the guest keeps was detached")
			}
			return nil
		})
	do([]string{"lifecycle demo 6 2", "lifecycle demo 5 1", "lifecycle demo 1 0"}, func() error { return dom.Destroy(ctx, 0) }, func() error { return dom.Undefine(ctx, 0) })
	expectOtherEvents(t, b, p)
	p.tell("deregister")
	p.expect("deregistered")
	if _, err := b.mgr.Define(ctx, replace(demoXML, "IMAGE", b.dir+"/disk.img"), 0); err != nil {
		t.Fatal(err)
	}
	p.tell("ping")
	p.expect("alive 1 testhost")
}

// expectOtherEvents makes what happens to networks, pools, devices and secrets happen.
func expectOtherEvents(t *testing.T, b *testbed, p *pythonClient) {
	t.Helper()
	l := b.libvirt(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	network, err := l.NetworkDefineXML(networkXML)
	check(err)
	check(l.NetworkCreate(network))
	check(l.NetworkDestroy(network))
	check(l.NetworkUndefine(network))
	p.expect("network lab 0", "network lab 2", "network lab 3", "network lab 1")

	pool, err := l.StoragePoolDefineXML(replace(poolXML, "POOL", b.dir+"/vms"), 0)
	check(err)
	check(l.StoragePoolBuild(pool, 0))
	check(l.StoragePoolCreate(pool, 0))
	check(l.StoragePoolRefresh(pool, 0))
	check(l.StoragePoolDestroy(pool))
	check(l.StoragePoolDelete(pool, 0))
	check(l.StoragePoolUndefine(pool))
	p.expect("pool vms 0", "pool vms 4", "pool vms 2", "pool refreshed vms", "pool vms 3", "pool vms 5", "pool vms 1")

	b.addDummy(t)
	b.uevents <- nodedev.Uevent{Action: "change", Path: dummyDevice}
	b.uevents <- nodedev.Uevent{Action: "remove", Path: dummyDevice}
	const name = "net_dummy0_52_54_00_00_00_01"
	p.expect("device "+name+" 0", "device changed "+name, "device "+name+" 1")

	text, err := os.ReadFile(b.dir + "/secret.xml")
	check(err)
	secret, err := l.SecretDefineXML(string(text), 0)
	check(err)
	check(l.SecretSetValue(secret, []byte("abc"), 0))
	check(l.SecretUndefine(secret))
	p.expect("secret /srv/a.img 0", "secret's value /srv/a.img", "secret /srv/a.img 1")
}
