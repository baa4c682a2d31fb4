package kvm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/domain/manager"
	"virtd/virterr"
)

// hotDisk is a further disk, with an alias if it is not empty.
func (h *host) hotDisk(target, alias string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, target+".raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if alias != "" {
		alias = "<alias name='" + alias + "'/>"
	}
	return fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/>"+
		"<target dev='%s' bus='virtio'/>%s</disk>", path, target, alias)
}

const hotNIC = "<interface type='bridge'><mac address='52:54:00:00:00:09'/><source bridge='br0'/><model type='virtio'/><driver name='qemu'/></interface>"

func has(t *testing.T, d *manager.Domain, what string) bool {
	t.Helper()
	xml, err := d.XML(0)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(xml, what)
}

func without(t *testing.T, d *manager.Domain, what string) {
	t.Helper()
	for range 2000 {
		if !has(t, d, what) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("the domain has %s still", what)
}

func TestAttachDetach(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	fds := countFDs(t)
	for round := range 3 {
		if err := d.AttachDevice(bg, h.hotDisk("vdb", ""), manager.AffectLive); err != nil {
			t.Fatal(err)
		}
		if err := d.AttachDevice(bg, hotNIC, manager.AffectLive); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			h.m.Close()
			h.open()
			var err error
			if d, err = h.m.LookupByName("a"); err != nil {
				t.Fatal(err)
			}
		}
		if !has(t, d, "vdb.raw") || !has(t, d, "52:54:00:00:00:09") {
			t.Errorf("round %d: the devices are not shown", round)
		}
		if s, err := d.BlockStats(bg, "vdb"); err != nil || s.Physical != 1<<20 {
			t.Errorf("round %d: statistics of the disk: %+v, %v", round, s, err)
		}
		if s, err := d.InterfaceStats(bg, "52:54:00:00:00:09"); err != nil || s.RxBytes != 5 {
			t.Errorf("round %d: statistics of the interface: %+v, %v", round, s, err)
		}
		for _, xml := range []string{h.hotDisk("vdb", ""), hotNIC} {
			if err := d.DetachDevice(bg, xml, manager.AffectLive); err != nil {
				t.Fatal(err)
			}
		}
		if has(t, d, "vdb.raw") || has(t, d, "52:54:00:00:00:09") {
			t.Errorf("round %d: the devices are shown", round)
		}
	}
	if now := countFDs(t); now > fds {
		t.Errorf("%d descriptors, before %d", now, fds)
	}
}

func TestAttachFailures(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	fds := countFDs(t)
	missing := strings.Replace(h.hotDisk("vdc", ""), "vdc.raw", "nothing.raw", 1)
	for name, c := range map[string]struct {
		xml, says string
		code      virterr.Code
	}{
		"missing image":  {missing, "nothing.raw", virterr.SystemError},
		"image in use":   {strings.Replace(h.hotDisk("vdd", ""), "vdd.raw", "disk.raw", 1), "in use by domain 'a'", virterr.ResourceBusy},
		"engine refuses": {h.hotDisk("vde", "ua-refused"), "unable to execute QEMU command 'device_add': Duplicate device ID", virterr.InternalError},
	} {
		err := d.AttachDevice(bg, c.xml, manager.AffectLive)
		if !virterr.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, what := range []string{"vdc", "vdd", "vde", "refused"} {
		if has(t, d, what) {
			t.Errorf("%s is shown", what)
		}
	}
	if now := countFDs(t); now > fds {
		t.Errorf("%d descriptors, before %d", now, fds)
	}
	if err := d.AttachDevice(bg, h.hotDisk("vde", ""), manager.AffectLive); err != nil {
		t.Errorf("a refused image is in use: %v", err)
	}
}

// Devices that went while nobody listened are missed when the monitor is opened again, and when the next virtd comes.
func TestDevicesThatWentUnheard(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	for _, target := range []string{"vdb", "vdc"} {
		if err := d.AttachDevice(bg, h.hotDisk(target, ""), manager.AffectLive); err != nil {
			t.Fatal(err)
		}
	}
	monitor := func(command string) { _, _ = d.Monitor(bg, command, true) }
	monitor("forget virtio-disk1")
	monitor("drop")
	without(t, d, "vdb.raw")
	monitorUntil(t, d)
	monitor("forget virtio-disk2")
	h.m.Close()
	h.open()
	d, err := h.m.LookupByName("a")
	if err != nil {
		t.Fatal(err)
	}
	without(t, d, "vdc.raw")
	if !has(t, d, "disk.raw") {
		t.Error("a disk that is there is gone")
	}
	if err := d.AttachDevice(bg, h.hotDisk("vdc", ""), manager.AffectLive); err != nil {
		t.Errorf("again: %v", err)
	}
}

// monitorUntil waits until the engine answers.
func monitorUntil(t *testing.T, d *manager.Domain) {
	t.Helper()
	for range 2000 {
		if _, err := d.Monitor(bg, "info", true); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the engine does not answer")
}

func TestGuestClings(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	if err := d.AttachDevice(bg, h.hotDisk("vdb", ""), manager.AffectLive); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Monitor(bg, "cling", true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(bg, time.Second)
	defer cancel()
	_ = d.DetachDevice(ctx, h.hotDisk("vdb", ""), manager.AffectLive)
	if !has(t, d, "vdb.raw") {
		t.Error("a disk that the guest uses is not shown")
	}
}

// TestRefusalByVhostIsTold: that the kernel does not take an interface's rings is in the document and among the messages, and both
// outlive virtd; what an engine says of interfaces that there are not, or of drivers that there are not, is left out.
func TestRefusalByVhostIsTold(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	say := func(data string) {
		t.Helper()
		if _, err := d.Monitor(bg, "backend "+data, true); err != nil {
			t.Fatal(err)
		}
	}
	messages := func() string {
		t.Helper()
		list, err := d.Messages()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(list, "\n")
	}
	const refused = "packets of interface net0 go through the engine, not through vhost-net: no memory left"
	if strings.Contains(messages(), "vhost-net") {
		t.Errorf("at the start: %s", messages())
	}
	say(`{"name":"net0","driver":"vhost"}`)
	say(`{"name":"net0","driver":"magic"}`)
	say(`{"name":"net9","driver":"vhost"}`)
	if !has(t, d, "<driver name='vhost'/>") || has(t, d, "<driver name='qemu'/>") {
		t.Error("the kernel moves packets, and it is not shown")
	}
	say(`{"name":"net0","driver":"qemu","reason":"no memory\nleft"}`)
	for _, when := range []string{"", "after a restart"} {
		if !has(t, d, "<driver name='qemu'/>") || !strings.Contains(messages(), refused) {
			t.Errorf("the engine moves packets %s, and it is not said: %s", when, messages())
		}
		h.m.Close()
		h.open()
		var err error
		if d, err = h.m.LookupByName("a"); err != nil {
			t.Fatal(err)
		}
	}
	say(`{"name":"net0","driver":"vhost"}`)
	if strings.Contains(messages(), "vhost-net") {
		t.Errorf("when the kernel has them again: %s", messages())
	}
}
