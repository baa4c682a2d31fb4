package daemon_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"

	"virtd/rpc"
	"virtd/virterr"
)

// TestGoLibvirt drives the daemon with an independent implementation of the protocol.
func TestGoLibvirt(t *testing.T) {
	b := newTestbed(t)
	b.writeXML(t)
	l := b.libvirt(t)
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if v, err := l.ConnectGetLibVersion(); err != nil || v < 10_000_000 {
		t.Errorf("library version %d, %v", v, err)
	}
	if v, err := l.ConnectGetVersion(); err != nil || v < 8_002_002 {
		t.Errorf("hypervisor version %d, %v", v, err)
	}
	if v, err := l.ConnectGetType(); err != nil || v != "QEMU" {
		t.Errorf("type %q, %v", v, err)
	}
	if v, err := l.ConnectGetUri(); err != nil || v != "qemu:///system" {
		t.Errorf("URI %q, %v", v, err)
	}
	model, memory, cpus, mhz, nodes, sockets, cores, threads, err := l.NodeGetInfo()
	check("node info", err)
	name := make([]byte, 6)
	for i := range name {
		name[i] = byte(model[i])
	}
	if string(name) != "x86_64" || memory != 16777216 || cpus != 8 || mhz != 2450 || nodes*sockets*cores*threads != 8 {
		t.Errorf("node info: %s %d %d %d %d %d %d %d", name, memory, cpus, mhz, nodes, sockets, cores, threads)
	}
	dom, err := l.DomainDefineXML(replace(demoXML, "IMAGE", b.dir+"/disk.img"))
	check("define", err)
	if dom.ID != -1 || dom.Name != "demo" {
		t.Errorf("defined %+v", dom)
	}
	events, err := l.LifecycleEvents(t.Context())
	check("events", err)
	check("start", l.DomainCreate(dom))
	e := <-events
	if e.Event == int32(libvirt.DomainEventDefined) {
		e = <-events // events leave after the reply: that of the definition may meet the registration
	}
	if e.Event != int32(libvirt.DomainEventResumed) {
		t.Errorf("first event %+v", e)
	}
	if e := <-events; e.Event != int32(libvirt.DomainEventStarted) {
		t.Errorf("second event %+v", e)
	}
	doms, n, err := l.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive)
	check("list", err)
	if n != 1 || len(doms) != 1 || doms[0].ID <= 0 || doms[0].UUID != dom.UUID {
		t.Errorf("list: %d %+v", n, doms)
	}
	state, reason, err := l.DomainGetState(dom, 0)
	check("state", err)
	if state != int32(libvirt.DomainRunning) || reason != int32(libvirt.DomainRunningBooted) {
		t.Errorf("state %d, reason %d", state, reason)
	}
	stats, err := l.ConnectGetAllDomainStats(doms, uint32(libvirt.DomainStatsState|libvirt.DomainStatsVCPU|libvirt.DomainStatsBlock), 0)
	check("stats", err)
	if len(stats) != 1 {
		t.Fatalf("stats of %d domains", len(stats))
	}
	fields := map[string]any{}
	for _, p := range stats[0].Params {
		fields[p.Field] = p.Value.I
	}
	want := map[string]any{"state.state": int32(1), "vcpu.current": uint32(2), "vcpu.maximum": uint32(4), "block.0.name": "vda"}
	for k, v := range want {
		if diff := cmp.Diff(v, fields[k]); diff != "" {
			t.Errorf("%s: %s", k, diff)
		}
	}
	xml, err := l.DomainGetXMLDesc(dom, 0)
	check("xml", err)
	if !strings.Contains(xml, "id='1'") || !strings.Contains(xml, "<alias name='virtio-disk0'/>") {
		t.Errorf("live XML has no id or aliases:\n%s", xml)
	}
	check("autostart", l.DomainSetAutostart(dom, 1))
	if on, err := l.DomainGetAutostart(dom); err != nil || on != 1 {
		t.Errorf("autostart %d, %v", on, err)
	}
	if caps, err := l.ConnectGetCapabilities(); err != nil || !strings.Contains(caps, "canonical='pc-q35-virtd-1.1'") {
		t.Errorf("capabilities: %v\n%s", err, caps)
	}
	check("destroy", l.DomainDestroy(dom))
	check("undefine", l.DomainUndefineFlags(dom, libvirt.DomainUndefineNvram))
	if _, err := l.DomainLookupByName("demo"); !libvirt.IsNotFound(err) {
		t.Errorf("after undefine: %v", err)
	}
}

// TestGoLibvirtConsole: the end of the guest ends a console of go-libvirt, which can only read.
func TestGoLibvirtConsole(t *testing.T) {
	b := newTestbed(t)
	dom := startDemo(t, b)
	l := b.libvirt(t)
	done := make(chan error, 1)
	go func() { done <- l.DomainOpenConsole(dom, nil, io.Discard, 0) }()
	time.Sleep(100 * time.Millisecond) // the stream has no sign of being open: an early end must work as well
	b.driver.Engine("demo").GuestPoweroff()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the end of the guest did not end the console")
	}
}

// TestErrorsOnTheWire: codes, domains and texts that clients branch on.
func TestErrorsOnTheWire(t *testing.T) {
	b := newTestbed(t)
	dom := startDemo(t, b)
	c := b.client(t, false)
	gone := dom
	gone.UUID[0]++
	const remote = rpc.ProgramRemote
	tests := []struct {
		name          string
		program, proc uint32
		args          any
		code          virterr.Code
		from          virterr.From
		text          string
	}{
		{"name", remote, rpc.ProcDomainLookupByName, &libvirt.DomainLookupByNameArgs{Name: "x"}, 42, 10, "Domain not found: no domain with matching name 'x'"},
		{"uuid", remote, rpc.ProcDomainGetState, &libvirt.DomainGetStateArgs{Dom: gone}, 42, 10, "Domain not found: no domain with matching uuid '12111111-2222-4333-8444-555555555555' (demo)"},
		{"id", remote, rpc.ProcDomainLookupByID, &libvirt.DomainLookupByIDArgs{ID: 99}, 42, 10, "Domain not found: no domain with matching id '99'"},
		{"network", remote, rpc.ProcNetworkLookupByName, &libvirt.NetworkLookupByNameArgs{Name: "x"}, 43, 19, "Network not found: no network with matching name 'x'"},
		{"pool", remote, rpc.ProcStoragePoolLookupByName, &libvirt.StoragePoolLookupByNameArgs{Name: "x"}, 49, 18, "Storage pool not found: no storage pool with matching name 'x'"},
		{"volume", remote, rpc.ProcStorageVolLookupByPath, &libvirt.StorageVolLookupByPathArgs{Path: "/x"}, 50, 18, "Storage volume not found: no storage vol with matching path '/x'"},
		{"flags", remote, rpc.ProcDomainGetState, &libvirt.DomainGetStateArgs{Dom: dom, Flags: 0x40}, 8, 10, "invalid argument: unsupported flags (0x40) in function virDomainGetState"},
		{"opened twice", remote, rpc.ProcConnectOpen, &libvirt.ConnectOpenArgs{}, 1, 7, "internal error: connection already open"},
		{"running", remote, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{Dom: dom}, 55, 10, "Requested operation is not valid: domain is already running"},
		{"huge maps", remote, rpc.ProcDomainGetVcpus, &libvirt.DomainGetVcpusArgs{Dom: dom, Maxinfo: 1 << 30, Maplen: 1 << 30}, 8, 10, "invalid argument: 1073741824 maps of 1073741824 bytes do not fit into a reply"},
		{"negative maps", remote, rpc.ProcDomainGetVcpuPinInfo, &libvirt.DomainGetVcpuPinInfoArgs{Dom: dom, Ncpumaps: -1, Maplen: 1}, 8, 10, "invalid argument: -1 maps of 1 bytes do not fit into a reply"},
		{"no callback", remote, rpc.ProcConnectDomainEventCallbackDeregisterAny, &libvirt.ConnectDomainEventCallbackDeregisterAnyArgs{CallbackID: 5}, 1, 7, "internal error: could not find event callback 5 for deletion"},
		{"monitor flags", rpc.ProgramQEMU, rpc.QEMUProcDomainMonitorCommand, &libvirt.QEMUDomainMonitorCommandArgs{Dom: dom, Flags: 8}, 8, 10, "invalid argument: unsupported flags (0x8) in function virDomainQemuMonitorCommand"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := c.Call(context.Background(), tt.program, tt.proc, tt.args, nil)
			var re *rpc.RemoteError
			if !errors.As(err, &re) {
				t.Fatalf("got %v, want a remote error", err)
			}
			if re.Code != tt.code || re.From != tt.from || re.Message != tt.text {
				t.Errorf("got  %d/%d %q\nwant %d/%d %q", re.Code, re.From, re.Message, tt.code, tt.from, tt.text)
			}
		})
	}
}

// TestOpen: which URIs this daemon serves.
func TestOpen(t *testing.T) {
	b := newTestbed(t)
	for uri, ok := range map[string]bool{
		"": true, "qemu:///system": true, "qemu:///": true, "qemu+unix:///system": true, "qemu:///session": false,
		"lxc:///": false, "qemu:///embed": false, "%zz": false,
	} {
		c, err := dialOnly(t, b)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Open(context.Background(), uri, false); ok != (err == nil) {
			t.Errorf("%q: %v", uri, err)
		}
	}
	c, err := dialOnly(t, b)
	if err != nil {
		t.Fatal(err)
	}
	// As virsh sends it to one user's daemon.
	if err := c.Call(context.Background(), rpc.ProgramRemote, rpc.ProcConnectOpen, &libvirt.ConnectOpenArgs{Flags: 6}, nil); err != nil {
		t.Error(err)
	}
}

// TestHostCheck: the private program.
func TestHostCheck(t *testing.T) {
	b := newTestbed(t)
	c := b.client(t, true)
	var ret rpc.PrivHostCheckRet
	if err := c.Call(context.Background(), rpc.ProgramPrivate, rpc.PrivProcHostCheck, &rpc.PrivHostCheckArgs{}, &ret); err != nil {
		t.Fatal(err)
	}
	want := []rpc.PrivHostCheckItem{{Name: "kvm", Verdict: "fail", Detail: "no /dev/kvm", Remedy: "load kvm"}}
	if diff := cmp.Diff(want, ret.Items); diff != "" {
		t.Error(diff)
	}
}

// TestDirtyRateFlags: what libvirt's client library does not let its users ask is refused here too.
func TestDirtyRateFlags(t *testing.T) {
	b := newTestbed(t)
	c := b.client(t, false)
	for flags, want := range map[uint32]string{
		3: "Flags 'VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_BITMAP' and 'VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_RING' are mutually exclusive",
		4: "unsupported flags (0x4) in function qemuDomainStartDirtyRateCalc",
	} {
		args := &libvirt.DomainStartDirtyRateCalcArgs{Dom: libvirt.Domain{Name: "demo"}, Seconds: 1, Flags: flags}
		if err := c.Call(context.Background(), rpc.ProgramRemote, rpc.ProcDomainStartDirtyRateCalc, args, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("flags %d: %v, want %q", flags, err, want)
		}
	}
}

// TestAnswered keeps handlers from being lost: every procedure here is answered by something else than NO_SUPPORT.
func TestAnswered(t *testing.T) {
	b := newTestbed(t)
	list, err := os.ReadFile("testdata/answered.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for number := uint32(1); number < 500; number++ {
		p := rpc.LookupProcedure(rpc.ProgramRemote, number)
		if p != nil && b.registry.Lookup(rpc.ProgramRemote, number) != nil {
			got = append(got, p.Name)
		}
	}
	if diff := cmp.Diff(strings.Fields(string(list)), got); diff != "" {
		t.Error(diff)
	}
}
