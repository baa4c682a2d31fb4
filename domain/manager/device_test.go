package manager

import (
	"context"
	"strings"
	"testing"

	"virtd/driver"
	"virtd/driver/fake"
	"virtd/virterr"
)

func TestLiveDeviceChanges(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.define("a", "")
	for _, dev := range []string{
		`<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface>`,
		`<disk type='file' device='disk'><source file='/c.img'/><target dev='vdc' bus='virtio'/></disk>`,
	} {
		if err := d.AttachDevice(ctx, dev, AffectConfig); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	e := f.drv.Engine("a") // the fixture's interface is net0

	if err := d.UpdateDevice(ctx, `<interface><mac address='52:54:00:00:00:01'/><link state='down'/></interface>`, AffectLive); err != nil {
		t.Fatal(err)
	}
	if up, told := e.Link("net1"); up || !told {
		t.Errorf("the guest's cable is in: %v, told: %v", up, told)
	}
	if err := d.UpdateDevice(ctx, `<interface><mac address='52:54:00:00:00:01'/><source bridge='br7'/></interface>`, AffectLive); err != nil {
		t.Fatal(err)
	}
	if up, _ := e.Link("net1"); up || e.Interface("net1") == nil || e.Interface("net1").Source.Bridge.Bridge != "br7" {
		t.Errorf("moved as %+v, and the cable is in: %v", e.Interface("net1"), up)
	}
	if xml, err := d.XML(0); err != nil || !strings.Contains(xml, "<source bridge='br7'/>") {
		t.Errorf("the new bridge is not shown (%v)", err)
	}
	if stored, err := d.definition(); err != nil || stored.View().Devices.Interfaces[1].Link != nil {
		t.Errorf("a live change is stored: %v", err)
	}
	e.Emit(driver.InterfaceBackend{Alias: "net1", Driver: "vhost"}) // the kernel takes it after all
	if xml, err := d.XML(0); err != nil || strings.Count(xml, "<driver name='vhost'/>") != 1 {
		t.Errorf("who moves packets is not shown (%v): %s", err, xml)
	}
	e.Emit(driver.InterfaceBackend{Alias: "net9", Driver: "vhost"}) // nobody's
	if err := d.ResizeDisk(ctx, "vdc", 1000); err != nil || e.DiskSize("virtio-disk2") != 1024 {
		t.Errorf("resize by target: %v, %d bytes", err, e.DiskSize("virtio-disk2"))
	}
	if err := d.ResizeDisk(ctx, "/c.img", 1<<20); err != nil || e.DiskSize("virtio-disk2") != 1<<20 {
		t.Errorf("resize by path: %v, %d bytes", err, e.DiskSize("virtio-disk2"))
	}
	if err := d.InjectNMI(ctx); err != nil || e.NMIs() != 1 {
		t.Errorf("NMI: %v, %d", err, e.NMIs())
	}
	for what, err := range map[string]error{
		"attach": d.AttachDevice(ctx, `<serial type='pty'/>`, AffectLive),
		"both":   d.AttachDevice(ctx, `<serial type='pty'/>`, affectBoth),
		"detach": d.DetachDevice(ctx, `<serial type='pty'/>`, AffectCurrent),
		"update": d.UpdateDevice(ctx, `<interface><mac address='52:54:00:00:00:01'/><mtu size='9000'/></interface>`, AffectLive),
	} {
		if !virterr.Is(err, virterr.OperationUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if stored, err := d.definition(); err != nil || len(stored.View().Devices.Serials) != 1 {
		t.Errorf("a refused change is stored: %v", err)
	}
}
