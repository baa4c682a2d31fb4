package kvm

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"virtd/hypervisor"
	"virtd/network/bridge"
	"virtd/network/bridge/bridgetest"
	"virtd/network/portconf"
	"virtd/virterr"
)

func macvtapDriver(t *testing.T) (*Driver, *bridgetest.Fake, string) {
	t.Helper()
	links := &bridgetest.Fake{}
	links.AddLink("eth0")
	dir, err := os.MkdirTemp("/tmp", "drv") // sockets need short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d, err := New(Config{Engine: os.Args[0], RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log"), Links: links})
	if err != nil {
		t.Fatal(err)
	}
	engine := filepath.Join(dir, "run", uuid.NewString())
	if err := os.MkdirAll(engine, 0o700); err != nil {
		t.Fatal(err)
	}
	return d, links, engine
}

func macvtapResource(alias, mac string, queues int) Resource {
	r := Resource{Kind: ResourceMacvtap, Alias: alias, Macvtap: &MacvtapResource{Parent: "eth0", Mode: bridge.MacvtapBridge, MAC: mac, Queues: queues}}
	for i := range queues {
		r.Files = append(r.Files, hypervisor.FileName(alias+string(rune('0'+i))))
	}
	return r
}

// have lists the links that are left, but for the network card.
func have(t *testing.T, links *bridgetest.Fake) (names []string) {
	t.Helper()
	all, err := links.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Kind == "macvtap" {
			names = append(names, l.Name)
		}
	}
	return names
}

// A macvtap stays until it is removed, so everything that ends a start, a device, an engine or a virtd removes it.
func TestMacvtapsAreRemoved(t *testing.T) {
	open := func(t *testing.T) (*Driver, *bridgetest.Fake, string, *opened) {
		d, links, dir := macvtapDriver(t)
		o, err := d.open(hypervisor.Config{Name: "x"}, []Resource{macvtapResource("net0", "52:54:00:00:00:01", 2), macvtapResource("net1", "52:54:00:00:00:02", 1)}, dir)
		if err != nil {
			t.Fatal(err)
		}
		if o.taps["net0"] != "macvtap0" || o.runtime.Taps["net1"] != "macvtap1" || len(o.files) != 3 {
			t.Fatalf("taps %v, %d files", o.taps, len(o.files))
		}
		t.Cleanup(o.close)
		return d, links, dir, o
	}
	t.Run("a start that fails later", func(t *testing.T) {
		d, links, dir := macvtapDriver(t)
		links.Fail = func(method, _ string) error {
			if method == "OpenVhostNet" {
				return errors.New("no vhost")
			}
			return nil
		}
		_, err := d.open(hypervisor.Config{}, []Resource{macvtapResource("net0", "52:54:00:00:00:01", 1),
			{Kind: ResourceVhost, Files: []hypervisor.FileName{"v"}}}, dir)
		if err == nil || len(have(t, links)) != 0 || len(linkPaths(dir)) != 0 {
			t.Errorf("%v; left %v, records %v", err, have(t, links), linkPaths(dir))
		}
	})
	t.Run("a start that is given up", func(t *testing.T) {
		d, links, dir, o := open(t)
		if err := d.discard(o); err != nil || len(have(t, links)) != 0 || len(linkPaths(dir)) != 0 {
			t.Errorf("%v; left %v", err, have(t, links))
		}
	})
	t.Run("a device that is detached", func(t *testing.T) {
		d, links, dir, _ := open(t)
		i := &instance{d: d, rec: record{Dir: dir}}
		if got := i.macvtaps(); got["net0"].Name != "macvtap0" || got["net1"].Parent != "eth0" {
			t.Errorf("macvtaps %+v", got)
		}
		i.dropHostPart("net0")
		if left := have(t, links); len(left) != 1 || left[0] != "macvtap1" {
			t.Errorf("left %v", left)
		}
	})
	t.Run("an engine that ended", func(t *testing.T) {
		d, links, dir, _ := open(t)
		if err := d.clean(&record{Dir: dir}); err != nil || len(have(t, links)) != 0 {
			t.Errorf("%v; left %v", err, have(t, links))
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("the directory: %v", err)
		}
	})
	t.Run("a virtd that was killed", func(t *testing.T) {
		d, links, _, _ := open(t)
		if err := d.Tidy(nil); err != nil || len(have(t, links)) != 0 {
			t.Errorf("%v; left %v", err, have(t, links))
		}
	})
	t.Run("a virtd that was killed before it knew the index", func(t *testing.T) {
		d, links, dir := macvtapDriver(t)
		note := func(_ string, index int) error {
			if index != 0 {
				return nil // killed
			}
			return os.WriteFile(linkPath(dir, "net0"), []byte(`{"name":"macvtap0","mac":"52:54:00:00:00:01"}`), 0o600)
		}
		mac, _ := net.ParseMAC("52:54:00:00:00:01")
		tap, err := links.OpenMacvtap(bridge.MacvtapConfig{Parent: "eth0", MAC: mac, Note: note})
		if err != nil {
			t.Fatal(err)
		}
		tap.Close()
		if err := d.Tidy(nil); err != nil || len(have(t, links)) != 0 {
			t.Errorf("%v; left %v", err, have(t, links))
		}
	})
	t.Run("one that cannot be removed keeps its record", func(t *testing.T) {
		d, links, dir, _ := open(t)
		links.Fail = func(method, _ string) error {
			if method == "DeleteMacvtap" {
				return errors.New("busy")
			}
			return nil
		}
		if err := d.clean(&record{Dir: dir}); err == nil || len(linkPaths(dir)) != 2 {
			t.Errorf("%v, records %v", err, linkPaths(dir))
		}
		links.Fail = nil
		if err := d.Tidy(nil); err != nil || len(have(t, links)) != 0 {
			t.Errorf("later: %v; left %v", err, have(t, links))
		}
	})
	t.Run("running domains keep theirs", func(t *testing.T) {
		d, links, dir, _ := open(t)
		if err := d.Tidy([]uuid.UUID{uuid.MustParse(filepath.Base(dir))}); err != nil || len(have(t, links)) != 2 {
			t.Errorf("%v; left %v", err, have(t, links))
		}
	})
}

const ratedMacvtap = `<domain type='kvm'><name>x</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/vmlinuz</kernel></os><features><acpi/><apic/></features>
<devices><interface type='direct'><mac address='52:54:00:01:02:04'/><source dev='eth1'/><target dev='lan0'/>
<bandwidth><inbound average='1000' peak='5000' burst='1024'/><outbound average='128'/></bandwidth></interface></devices></domain>`

// A macvtap has its rates from the start, gets others while it is in use, and loses them before it is removed. An interface without
// a link on the host can have none.
func TestMacvtapRates(t *testing.T) {
	d, links, dir := macvtapDriver(t)
	links.AddLink("eth1")
	live := startedFrom(t, ratedMacvtap)
	_, resources, err := PlanDevice(live, "net0", facts)
	if err != nil {
		t.Fatal(err)
	}
	resources = slices.DeleteFunc(resources, func(r Resource) bool { return r.Kind != ResourceMacvtap })
	o, err := d.open(hypervisor.Config{Name: "x"}, resources, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.close)
	first := portconf.Bandwidth{In: portconf.Rate{Average: 1000, Peak: 5000, Burst: 1024}, Out: portconf.Rate{Average: 128}}
	if got := links.Bandwidths["lan0"]; got != first {
		t.Errorf("made with %+v", got)
	}
	i := &instance{d: d, name: "x", live: live, rec: record{Dir: dir, Taps: o.taps}}
	second := portconf.Bandwidth{Out: portconf.Rate{Average: 7}}
	next, err := live.SetInterfaceBandwidth("52:54:00:01:02:04", second)
	if err != nil {
		t.Fatal(err)
	}
	links.Fail = func(method, _ string) error {
		if method == "SetBandwidth" {
			return errors.New("no tc")
		}
		return nil
	}
	if err := i.UpdateInterface(t.Context(), "net0", next); err == nil || i.definition() != live {
		t.Errorf("rates that the kernel does not take: %v", err)
	}
	links.Fail = nil
	if err := i.UpdateInterface(t.Context(), "net0", next); err != nil || links.Bandwidths["lan0"] != second || i.definition() != next {
		t.Errorf("changed to %+v, %v", links.Bandwidths["lan0"], err)
	}
	d.releaseTaps(o.taps)
	if got := links.Bandwidths["lan0"]; got.Limited() {
		t.Errorf("left with %+v", got)
	}
	err = i.UpdateInterface(t.Context(), "net9", next) // of type user, say
	if !virterr.Is(err, virterr.OperationUnsupported) || !strings.Contains(err.Error(), "Unable to set bandwidth for interface because device name is unknown") {
		t.Errorf("without a link: %v", err)
	}
}

// What an engine says of its guest's filter is checked.
func TestRxFilterReply(t *testing.T) {
	good := rxFilter{MainMAC: "52:54:00:00:00:01", Multicast: "normal", MulticastTable: []string{"01:00:5e:00:00:01", "02:00:00:00:00:01"}}
	f, err := good.filter()
	if err != nil || len(f.Multicast) != 1 || f.AllMulticast || f.MAC.String() != good.MainMAC {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err := (&rxFilter{MainMAC: good.MainMAC, MulticastOverflow: true, Promiscuous: true}).filter(); err != nil || !f.AllMulticast || !f.Promiscuous {
		t.Errorf("%+v, %v", f, err)
	}
	for _, bad := range []rxFilter{{}, {MainMAC: "01:00:00:00:00:01"}, {MainMAC: "x; rm"}, {MainMAC: good.MainMAC, MulticastTable: []string{"00:11:22:33:44:55:66:77"}}} {
		if f, err := bad.filter(); err == nil {
			t.Errorf("%+v was taken for %+v", bad, f)
		}
	}
}
