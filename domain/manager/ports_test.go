package manager

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/fake"
	"virtd/network"
	"virtd/network/networktest"
)

// TestDomainPorts: a domain's interface has a port from before its engine starts until its life ends, however it ends, and
// keeps it over a restart of virtd.
func TestDomainPorts(t *testing.T) {
	dir := t.TempDir()
	nets, err := network.Open(network.Config{
		State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), Host: &networktest.Fake{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer nets.Close()
	n, err := nets.Define("<network><name>lab</name><port isolated='yes'/></network>")
	if err != nil {
		t.Fatal(err)
	}
	drv := &fake.Driver{}
	f := &fixture{t: t, drv: drv, store: newMemStore(), networks: nets}
	f.open()
	defer func() { f.m.Close() }()
	xml := strings.Replace(testXML("a", ""), "<interface type='bridge'><source bridge='br0'/>", "<interface type='network'><source network='lab'/>", 1)
	ports := func() []*network.Port {
		t.Helper()
		list, err := n.Ports()
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	ctx := context.Background()
	d, err := f.m.Define(ctx, xml, 0)
	if err != nil {
		t.Fatal(err)
	}
	drv.OnStart = func(_ context.Context, live *domain.Definition) error {
		if nic := live.NetworkInterfaces()[0]; nic.Port == "" || len(ports()) != 1 {
			t.Errorf("the engine starts without a port: %+v", nic)
		}
		return errors.New("no luck")
	}
	if err := d.Start(ctx, 0); err == nil {
		t.Fatal("started")
	}
	if len(ports()) != 0 {
		t.Error("a start that failed leaves a port")
	}
	drv.OnStart = nil
	if err := d.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	text, err := d.XML(0)
	if err != nil || !strings.Contains(text, "<source network='lab' portid='"+ports()[0].UUID.String()+"' bridge='virbr0'/>") || !strings.Contains(text, "<port isolated='yes'/>") {
		t.Errorf("%v\n%s", err, text)
	}
	if p := ports()[0]; p.Owner.Name != "a" || p.Tap == "" {
		t.Errorf("port %+v", p)
	}
	f.replace()
	if use := f.m.PortsInUse(); len(use) != 1 || !use[ports()[0].UUID] {
		t.Errorf("ports in use after a restart: %v", use)
	}
	drv.Engine("a").Exit(driver.ExitCrashed, "signal: killed")
	for end := time.Now().Add(10 * time.Second); len(ports()) != 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a crash leaves a port")
		}
	}
}
