package manager

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/driver"
	"virtd/driver/fake"
	"virtd/network"
	"virtd/network/networktest"
	"virtd/network/portconf"
)

// onPool is a domain with one interface on the network vfs.
func onPool(name, more string) string {
	return strings.Replace(testXML(name, ""), "<interface type='bridge'><source bridge='br0'/>", "<interface type='network'><source network='vfs'/>"+more, 1)
}

// TestDomainOnFunctionPool: an interface on a pool of virtual functions is one while its domain runs, also an attached one; the
// next virtd knows that; and it comes back when the domain ends or loses the interface.
func TestDomainOnFunctionPool(t *testing.T) {
	dir, host := t.TempDir(), &networktest.Fake{}
	host.SetFunctions("enp1s0", portconf.Function{Bus: 1, Slot: 16}, portconf.Function{Bus: 1, Slot: 16, Number: 2})
	nets, err := network.Open(network.Config{
		State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), Host: host, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nets.Close()
	n, err := nets.Define("<network><name>vfs</name><forward mode='hostdev' managed='yes'><pf dev='enp1s0'/></forward><vlan><tag id='42'/></vlan></network>")
	if err != nil {
		t.Fatal(err)
	}
	drv := &fake.Driver{}
	f := &fixture{t: t, drv: drv, store: newMemStore(), networks: nets}
	f.open()
	defer func() { f.m.Close() }()
	ctx := context.Background()
	define := func(name, more string) *Domain {
		t.Helper()
		d, err := f.m.Define(ctx, onPool(name, more), 0)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	ports := func(want int) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			list, err := n.Ports()
			if err == nil && len(list) == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d ports, want %d (%v)", len(list), want, err)
			}
		}
	}
	a := define("a", "")
	if err := a.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	text, err := a.XML(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<interface type='hostdev' managed='yes'>", "<source>", "<tag id='42'/>", "<alias name='hostdev0'/>", "<driver name='vfio'/>",
		"<address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x0'/>"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	_, text, _ = strings.Cut(text, "<interface")
	text, _, _ = strings.Cut(text, "</interface>")
	if strings.Contains(text, "portid") || strings.Contains(text, "<model type='virtio'/>") || strings.Contains(text, "<target dev=") {
		t.Errorf("a virtual function with what it has not:\n%s", text)
	}
	nic := "<interface type='network'><mac address='52:54:00:aa:00:%02x'/><source network='vfs'/></interface>"
	if err := a.AttachDevice(ctx, fmt.Sprintf(nic, 1), AffectLive); err != nil {
		t.Fatal(err)
	}
	if text, _ := a.XML(0); strings.Count(text, "<interface type='hostdev'") != 2 || !strings.Contains(text, "<alias name='hostdev1'/>") {
		t.Errorf("after attaching:\n%s", text)
	}
	ports(2)
	b := define("b", "")
	if err := b.Start(ctx, 0); err == nil || !strings.Contains(err.Error(), "network 'vfs' requires exclusive access to interfaces, but none are available: all 2 devices are in use") {
		t.Errorf("one too many: %v", err)
	}
	if err := a.AttachDevice(ctx, fmt.Sprintf(nic, 2), AffectLive); err == nil {
		t.Error("attached one too many")
	}
	f.replace() // by what is on record
	if use := f.m.PortsInUse(); len(use) != 2 {
		t.Errorf("ports in use after a restart: %v", use)
	}
	if a, err = f.m.LookupByName("a"); err != nil {
		t.Fatal(err)
	}
	if err := a.DetachDevice(ctx, fmt.Sprintf(nic, 1), AffectLive); err != nil {
		t.Fatal(err)
	}
	ports(1)
	if b, err = f.m.LookupByName("b"); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	drv.Engine("a").Exit(driver.ExitCrashed, "signal: killed")
	ports(1)
	if text, err := b.XML(2); err != nil || !strings.Contains(text, "<interface type='network'>") || strings.Contains(text, "vfio") {
		t.Errorf("%v\n%s", err, text)
	}
	c := define("c", "<driver queues='2'/>")
	if err := c.Start(ctx, 0); err == nil || !strings.Contains(err.Error(), "multiqueue is not supported for network interfaces of type hostdev") {
		t.Errorf("queues: %v", err)
	}
	ports(1)
}
