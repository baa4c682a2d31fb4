package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/fake"
	"virtd/virterr"
)

const (
	hotDisk = `<disk type='file' device='disk'><source file='/b.img'/><target dev='vdb' bus='virtio'/></disk>`
	hotNIC  = `<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface>`
	hotRNG  = `<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`
)

// devices waits until n device events came, and returns them as kind and alias.
func (f *fixture) devices(n int) []string {
	f.t.Helper()
	var list []string
	for range 500 {
		list = nil
		f.mu.Lock()
		for _, e := range f.events {
			switch e.Kind {
			case EventDeviceAdded:
				list = append(list, "added "+e.Alias)
			case EventDeviceRemoved:
				list = append(list, "removed "+e.Alias)
			case EventDeviceRemovalFailed:
				list = append(list, "kept "+e.Alias)
			}
		}
		f.mu.Unlock()
		if len(list) >= n {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return list
}

// aliases are the devices that come and go of what runs.
func aliases(t *testing.T, d *Domain) []string {
	t.Helper()
	_, live, err := d.engine()
	if err != nil {
		t.Fatal(err)
	}
	return live.LiveAliases()
}

// stored counts disks, interfaces and entropy sources of the configuration.
func stored(t *testing.T, d *Domain) string {
	t.Helper()
	def, err := d.definition()
	if err != nil {
		t.Fatal(err)
	}
	v := def.View().Devices
	return fmt.Sprint(len(v.Disks), len(v.Interfaces), len(v.RNGs))
}

func TestAttachDetach(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	for _, xml := range []string{hotDisk, hotNIC, hotRNG} {
		if err := d.AttachDevice(ctx, xml, AffectLive); err != nil {
			t.Fatal(err)
		}
	}
	if got := aliases(t, d); !slices.Equal(got, []string{"virtio-disk0", "virtio-disk1", "net0", "net1", "rng0"}) {
		t.Errorf("running: %v", got)
	}
	if got := stored(t, d); got != "1 1 0" {
		t.Errorf("stored: %s", got)
	}
	xml, err := d.XML(0)
	if err != nil || !strings.Contains(xml, "<target dev='vnet11'/>") {
		t.Errorf("the tap of the new interface is not shown (%v):\n%s", err, xml)
	}
	if s, err := d.BlockStats(ctx, "vdb"); err != nil || s.ReadOps == 0 {
		t.Errorf("statistics of the new disk: %+v, %v", s, err)
	}
	f.replace() // another virtd knows them
	if d, err = f.m.LookupByName("a"); err != nil || len(aliases(t, d)) != 5 {
		t.Fatalf("after a restart: %v, %v", aliases(t, d), err)
	}
	for _, xml := range []string{hotDisk, hotNIC} {
		if err := d.DetachDevice(ctx, xml, AffectCurrent); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DetachDeviceAlias(ctx, "rng0", AffectLive); err != nil {
		t.Fatal(err)
	}
	if got := f.devices(3); !slices.Equal(got, []string{"removed virtio-disk1", "removed net1", "removed rng0"}) {
		t.Errorf("events: %v", got)
	}
	if got := aliases(t, d); !slices.Equal(got, []string{"virtio-disk0", "net0"}) {
		t.Errorf("running: %v", got)
	}
}

func TestAttachDetachBoth(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	nic := strings.Replace(hotNIC, "<mac address='52:54:00:00:00:01'/>", "", 1)
	for _, xml := range []string{hotDisk, nic, hotRNG} {
		if err := d.AttachDevice(ctx, xml, affectBoth); err != nil {
			t.Fatal(err)
		}
	}
	def, err := d.definition()
	if err != nil {
		t.Fatal(err)
	}
	_, live, _ := d.engine()
	if a, b := def.View().Devices.Interfaces[1].MAC.Address, live.View().Devices.Interfaces[1].MAC.Address; a != b {
		t.Errorf("the interface has MAC address %s in the configuration and %s in the guest", a, b)
	}
	if a, b := def.View().Devices.Disks[1].Address.PCI, live.View().Devices.Disks[1].Address.PCI; *a.Bus != *b.Bus {
		t.Errorf("the disk is on bus %d in the configuration and on %d in the guest", *a.Bus, *b.Bus)
	}
	if got := f.devices(3); !slices.Equal(got, []string{"added virtio-disk1", "added net1", "added rng0"}) {
		t.Errorf("events: %v", got)
	}
	// The configuration changes with the running domain or not at all.
	wantCode(t, d.AttachDevice(ctx, strings.Replace(hotDisk, "/b.img", "/c.img", 1), affectBoth), virterr.OperationInvalid,
		"Requested operation is not valid: target vdb already exists")
	if err := d.DetachDevice(ctx, hotDisk, AffectLive); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.DetachDevice(ctx, hotDisk, affectBoth), virterr.DeviceMissing, "device not found: disk vdb not found")
	if got := stored(t, d); got != "2 2 1" {
		t.Errorf("stored: %s", got)
	}
	if err := d.DetachDevice(ctx, hotRNG, affectBoth); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, d); got != "2 2 0" {
		t.Errorf("stored: %s", got)
	}
}

// An attachment that fails anywhere leaves the domain, and what the next virtd will find, as they were.
func TestAttachFailsWhole(t *testing.T) {
	ctx := context.Background()
	for _, step := range []string{"Attach", "Attached"} {
		st := newMemStore()
		f := newFixture(t, &fake.Driver{}, st)
		d := f.started("a", "")
		f.drv.OnCall = func(_ context.Context, _ *fake.Engine, method string) error {
			if method == step {
				return virterr.New(virterr.InternalError, "no luck")
			}
			return nil
		}
		wantCode(t, d.AttachDevice(ctx, hotDisk, affectBoth), virterr.InternalError, "internal error: no luck")
		if got := aliases(t, d); !slices.Equal(got, []string{"virtio-disk0", "net0"}) || stored(t, d) != "1 1 0" {
			t.Errorf("%s: running %v, stored %s", step, got, stored(t, d))
		}
		all, _ := st.Statuses()
		if len(all) != 1 || strings.Contains(all[0].LiveXML, "vdb") {
			t.Errorf("%s: the record tells of the disk", step)
		}
		f.drv.OnCall = nil
		if err := d.AttachDevice(ctx, hotDisk, AffectLive); err != nil {
			t.Errorf("%s: again: %v", step, err)
		}
		if got := f.devices(1); !slices.Equal(got, []string{"added virtio-disk1"}) {
			t.Errorf("%s: events %v", step, got)
		}
	}
}

// The record that the engine's next owner finds tells of a device before the engine has it.
func TestAttachIsRecordedFirst(t *testing.T) {
	st := newMemStore()
	f := newFixture(t, &fake.Driver{}, st)
	d := f.started("a", "")
	f.drv.OnCall = func(_ context.Context, _ *fake.Engine, method string) error {
		if all, _ := st.Statuses(); method == "Attached" && !strings.Contains(all[0].LiveXML, "vdb") {
			return errors.New("not recorded")
		}
		return nil
	}
	if err := d.AttachDevice(context.Background(), hotDisk, AffectLive); err != nil {
		t.Error(err)
	}
}

func TestGuestKeepsItsDevice(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t, &fake.Driver{}, newMemStore())
	f.m.cfg.DetachWait = 50 * time.Millisecond
	d := f.started("a", "")
	if err := d.AttachDevice(ctx, hotDisk, AffectLive); err != nil {
		t.Fatal(err)
	}
	e := f.drv.Engine("a")
	e.Cling(false)
	if err := d.DetachDevice(ctx, hotDisk, AffectLive); err != nil { // asked: that is all it says
		t.Fatal(err)
	}
	if got := aliases(t, d); !slices.Contains(got, "virtio-disk1") {
		t.Errorf("a device that the guest has is gone: %v", got)
	}
	e.Cling(true)
	wantCode(t, d.DetachDevice(ctx, hotDisk, AffectLive), virterr.OperationFailed,
		"operation failed: detach of device 'virtio-disk1' was rejected by the guest")
	e.Yield("virtio-disk1") // much later
	if got := f.devices(3); !slices.Equal(got, []string{"added virtio-disk1", "kept virtio-disk1", "removed virtio-disk1"}) {
		t.Errorf("events: %v", got)
	}
	if got := aliases(t, d); slices.Contains(got, "virtio-disk1") {
		t.Errorf("running: %v", got)
	}
}

// A guest may let go of any device whenever it likes, also while another one comes.
func TestGuestEjectsByItself(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	f.drv.OnCall = func(_ context.Context, e *fake.Engine, method string) error {
		if method == "Attach" {
			e.Yield("net0")
		}
		return nil
	}
	if err := d.AttachDevice(context.Background(), hotDisk, AffectLive); err != nil {
		t.Fatal(err)
	}
	if got := aliases(t, d); !slices.Equal(got, []string{"virtio-disk0", "virtio-disk1"}) {
		t.Errorf("running: %v", got)
	}
	f.drv.Engine("a").Emit(driver.DeviceRemoved{Alias: "virtio-disk7"}) // nobody knows that one
	if got := f.devices(2); !slices.Equal(got, []string{"removed net0", "added virtio-disk1"}) {
		t.Errorf("events: %v", got)
	}
}

func TestAttachPlacesAndNames(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	attach := func(target, more string) error {
		return d.AttachDevice(ctx, fmt.Sprintf(`<disk type='file' device='disk'><source file='/%s.img'/>`+
			`<target dev='%s' bus='virtio'/>%s</disk>`, target, target, more), AffectLive)
	}
	for _, c := range []struct {
		target, more string
		code         virterr.Code
		text         string
	}{
		{"vda", "", virterr.XMLError, "XML error: target 'vda' duplicated for disk sources '/img/a.raw' and '/vda.img'"},
		{"vdx", "<alias name='ua-x'/>", 0, ""},
		{"vdy", "<alias name='ua-x'/>", virterr.XMLError, "XML error: non unique alias detected: ua-x"},
		{"vdb", "<alias name='virtio-disk0'/>", 0, ""}, // not the user's to choose
		{"vdc", "", 0, ""},
		{"vdd", "", 0, ""},
		{"vde", "", virterr.InternalError, "internal error: No more available PCI slots"},
	} {
		err := attach(c.target, c.more)
		if c.text != "" {
			wantCode(t, err, c.code, c.text)
		} else if err != nil {
			t.Fatalf("%s: %v", c.target, err)
		}
	}
	if got := aliases(t, d); !slices.Equal(got, []string{"virtio-disk0", "ua-x", "virtio-disk1", "virtio-disk2", "virtio-disk3", "net0"}) {
		t.Errorf("running: %v", got)
	}
	if err := d.DetachDeviceAlias(ctx, "ua-x", AffectLive); err != nil {
		t.Fatal(err)
	}
	if err := attach("vde", ""); err != nil {
		t.Errorf("after one went: %v", err)
	}
	wantCode(t, d.DetachDeviceAlias(ctx, "ua-x", AffectLive), virterr.DeviceMissing, "device not found: no device found with alias ua-x")
	wantCode(t, d.DetachDeviceAlias(ctx, "serial0", AffectLive), virterr.OperationUnsupported,
		"Operation not supported: live detach of device 'serial' is not supported")
	if err := d.DetachDeviceAlias(ctx, "net0", 8); !virterr.Is(err, virterr.InvalidArg) {
		t.Errorf("unknown flag: %v", err)
	}
	if n := domain.SparePorts; n != 4 {
		t.Errorf("the table above is for 4 free root ports, there are %d", n)
	}
}
