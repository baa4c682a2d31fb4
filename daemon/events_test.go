package daemon_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"

	"virtd/domain/manager"
	"virtd/driver"
	"virtd/rpc"
)

// TestVirshEvent: virsh event --all prints what happens, in order.
func TestVirshEvent(t *testing.T) {
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip("virsh is not installed (package libvirt-clients)")
	}
	b := newTestbed(t)
	b.writeXML(t)
	dom, err := b.mgr.Define(context.Background(), replace(demoXML, "IMAGE", b.dir+"/disk.img"), 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(virsh, "-c", "qemu:///system?socket="+b.sock, "event", "--all", "--loop")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	ctx := context.Background()
	// virsh does not say when it is ready: poke until it shows something.
	for ready := false; !ready; {
		if err := dom.SetMetadata(ctx, manager.MetadataTitle, "t", "", "", manager.AffectConfig); err != nil {
			t.Fatal(err)
		}
		select {
		case l := <-lines:
			ready = strings.Contains(l, "event 'metadata-change' for domain 'demo': type title")
			if !ready {
				t.Fatalf("virsh prints %q", l)
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	steps := []struct {
		do   func() error
		want []string
	}{
		{func() error { return dom.Start(ctx, 0) },
			[]string{"event 'lifecycle' for domain 'demo': Resumed Unpaused", "event 'lifecycle' for domain 'demo': Started Booted"}},
		{func() error { return dom.Suspend(ctx) }, []string{"event 'lifecycle' for domain 'demo': Suspended Paused"}},
		{func() error { return dom.Resume(ctx) }, []string{"event 'lifecycle' for domain 'demo': Resumed Unpaused"}},
		{func() error { return dom.SetMemory(ctx, 300<<10, manager.AffectLive) }, []string{"event 'balloon-change' for domain 'demo': 307200KiB"}},
		{func() error { return dom.Reset(ctx) }, []string{"event 'reboot' for domain 'demo'"}},
		{func() error {
			b.driver.Engine("demo").Emit(driver.IOFailed{Alias: "virtio-disk0", Write: true, Reason: "input/output error"})
			return nil
		}, []string{
			"event 'io-error' for domain 'demo': " + b.dir + "/disk.img (virtio-disk0) report",
			"event 'io-error-reason' for domain 'demo': " + b.dir + "/disk.img (virtio-disk0) report due to input/output error",
		}},
		{func() error { return dom.Destroy(ctx, 0) },
			[]string{"event 'lifecycle' for domain 'demo': Shutdown Finished after host request", "event 'lifecycle' for domain 'demo': Stopped Destroyed"}},
		{func() error { return dom.Undefine(ctx, 0) }, []string{"event 'lifecycle' for domain 'demo': Undefined Removed"}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(got) < len(s.want) {
			select {
			case l := <-lines:
				if !strings.Contains(l, "metadata-change") {
					got = append(got, l)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("virsh printed only %q of %q", got, s.want)
			}
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestMonitorEvents: the QEMU program's events, all and by name.
func TestMonitorEvents(t *testing.T) {
	b := newTestbed(t)
	startDemo(t, b)
	c := b.client(t, false)
	got := make(chan libvirt.QEMUDomainMonitorEventMsg, 10)
	c.OnEvent(func(program, procedure uint32, body []byte) {
		var msg libvirt.QEMUDomainMonitorEventMsg
		if program == rpc.ProgramQEMU && procedure == rpc.QEMUProcDomainMonitorEvent && rpc.Unmarshal(body, &msg) == nil {
			got <- msg
		}
	})
	register := func(name string, flags uint32) int32 {
		t.Helper()
		args := &libvirt.QEMUConnectDomainMonitorEventRegisterArgs{Event: libvirt.OptString{name}, Flags: flags}
		var ret libvirt.QEMUConnectDomainMonitorEventRegisterRet
		if err := c.Call(context.Background(), rpc.ProgramQEMU, rpc.QEMUProcConnectDomainMonitorEventRegister, args, &ret); err != nil {
			t.Fatal(err)
		}
		return ret.CallbackID
	}
	exact, regex := register("STOP", 0), register("^st", 1|2)
	emit := func(name string) {
		b.driver.Engine("demo").Emit(driver.MonitorEvent{Name: name, Time: time.Unix(7, 5000), Data: json.RawMessage(`{"a":1}`)})
	}
	emit("RESUME")
	emit("STORED")
	emit("STOP")
	want := map[string]int32{"STORED": regex, "STOP": exact}
	for range 3 {
		msg := <-got
		if msg.Event == "STOP" && msg.CallbackID == regex {
			continue
		}
		if want[msg.Event] != msg.CallbackID || msg.Seconds != 7 || msg.Micros != 5 || len(msg.Details) != 1 || msg.Details[0] != `{"a":1}` {
			t.Errorf("%+v", msg)
		}
	}
	args := &libvirt.QEMUConnectDomainMonitorEventRegisterArgs{Event: libvirt.OptString{"("}, Flags: 1}
	if err := c.Call(context.Background(), rpc.ProgramQEMU, rpc.QEMUProcConnectDomainMonitorEventRegister, args, nil); err == nil {
		t.Error("a broken expression was accepted")
	}
}

// TestSubscriptions: filters, deregistration, limits, and nothing left when clients leave.
func TestSubscriptions(t *testing.T) {
	b := newTestbed(t)
	dom := startDemo(t, b)
	c := b.client(t, true) // watching is no privilege
	ctx := context.Background()
	ids := make(chan int32, 100)
	c.OnEvent(func(_, procedure uint32, body []byte) {
		var msg libvirt.DomainEventCallbackLifecycleMsg
		if procedure == rpc.ProcDomainEventCallbackLifecycle && rpc.Unmarshal(body, &msg) == nil {
			ids <- msg.CallbackID
		}
	})
	register := func(args *libvirt.ConnectDomainEventCallbackRegisterAnyArgs) (int32, error) {
		var ret libvirt.ConnectDomainEventCallbackRegisterAnyRet
		err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectDomainEventCallbackRegisterAny, args, &ret)
		return ret.CallbackID, err
	}
	other := dom
	other.UUID[0]++
	_, err1 := register(&libvirt.ConnectDomainEventCallbackRegisterAnyArgs{Dom: libvirt.OptDomain{other}})
	gone, err2 := register(&libvirt.ConnectDomainEventCallbackRegisterAnyArgs{})
	mine, err3 := register(&libvirt.ConnectDomainEventCallbackRegisterAnyArgs{Dom: libvirt.OptDomain{dom}})
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	deregister := &libvirt.ConnectDomainEventCallbackDeregisterAnyArgs{CallbackID: gone}
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectDomainEventCallbackDeregisterAny, deregister, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectDomainEventCallbackDeregisterAny, deregister, nil); err == nil {
		t.Error("a callback was removed twice")
	}
	d, err := b.mgr.LookupByName("demo")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if id := <-ids; id != mine {
			t.Errorf("callback %d was called, want %d", id, mine)
		}
	}
	for id := int32(0); id <= 27; id++ {
		if _, err := register(&libvirt.ConnectDomainEventCallbackRegisterAnyArgs{EventID: id}); err != nil {
			t.Errorf("event %d: %v", id, err)
		}
	}
	for _, id := range []int32{-1, 28} {
		if _, err := register(&libvirt.ConnectDomainEventCallbackRegisterAnyArgs{EventID: id}); err == nil {
			t.Errorf("event %d was accepted", id)
		}
	}
	var limit error
	for range 2000 {
		if _, limit = register(&libvirt.ConnectDomainEventCallbackRegisterAnyArgs{}); limit != nil {
			break
		}
	}
	if limit == nil {
		t.Error("2000 callbacks were accepted")
	}
}
