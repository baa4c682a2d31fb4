package daemon_test

import (
	"bufio"
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"

	"virtd/nodedev"
	"virtd/nodedev/nodedevtest"
	"virtd/rpc"
)

const dummyDevice = "devices/virtual/net/dummy0"

func (b *testbed) addDummy(t *testing.T) {
	t.Helper()
	nodedevtest.Build(t, b.sys, "@ "+dummyDevice+"\nsubsystem -> class/net\nuevent INTERFACE=dummy0\naddress 52:54:00:00:00:01")
	b.uevents <- nodedev.Uevent{Action: "add", Path: dummyDevice}
}

// TestNodeDeviceEvents: what happens to devices arrives in order, as far as the client asked for it.
func TestNodeDeviceEvents(t *testing.T) {
	b := newTestbed(t)
	c := b.client(t, true)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	register := func(event int32, dev libvirt.OptNodeDevice) int32 {
		t.Helper()
		var ret libvirt.ConnectNodeDeviceEventRegisterAnyRet
		err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNodeDeviceEventRegisterAny, &libvirt.ConnectNodeDeviceEventRegisterAnyArgs{EventID: event, Dev: dev}, &ret)
		if err != nil {
			t.Fatal(err)
		}
		return ret.CallbackID
	}
	const name = "net_dummy0_52_54_00_00_00_01"
	messages := make(chan any, 10)
	c.OnEvent(func(_, procedure uint32, body []byte) {
		var msg any = &libvirt.NodeDeviceEventUpdateMsg{}
		if procedure == rpc.ProcNodeDeviceEventLifecycle {
			msg = &libvirt.NodeDeviceEventLifecycleMsg{}
		}
		if err := rpc.Unmarshal(body, msg); err != nil {
			t.Errorf("message %d: %v", procedure, err)
		}
		messages <- msg
	})
	lifecycle, update := register(0, nil), register(1, nil)
	other := register(1, libvirt.OptNodeDevice{{Name: "computer"}})
	err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNodeDeviceEventRegisterAny, &libvirt.ConnectNodeDeviceEventRegisterAnyArgs{EventID: 2}, new(libvirt.ConnectNodeDeviceEventRegisterAnyRet))
	if err == nil || !strings.Contains(err.Error(), "internal error: unsupported event ID 2") {
		t.Errorf("unknown event: %v", err)
	}
	b.addDummy(t)
	b.uevents <- nodedev.Uevent{Action: "change", Path: dummyDevice}
	b.uevents <- nodedev.Uevent{Action: "remove", Path: dummyDevice}
	dev := libvirt.NodeDevice{Name: name}
	for _, want := range []any{
		&libvirt.NodeDeviceEventLifecycleMsg{CallbackID: lifecycle, Dev: dev, Event: 0},
		&libvirt.NodeDeviceEventUpdateMsg{CallbackID: update, Dev: dev},
		&libvirt.NodeDeviceEventLifecycleMsg{CallbackID: lifecycle, Dev: dev, Event: 1},
	} {
		select {
		case got := <-messages:
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		case <-ctx.Done():
			t.Fatalf("no message, want %+v", want)
		}
	}
	err = c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNodeDeviceEventDeregisterAny, &libvirt.ConnectNodeDeviceEventDeregisterAnyArgs{CallbackID: other}, nil)
	if err != nil {
		t.Error(err)
	}
	err = c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNodeDeviceEventDeregisterAny, &libvirt.ConnectNodeDeviceEventDeregisterAnyArgs{CallbackID: other}, nil)
	if err == nil {
		t.Error("a registration ended twice")
	}
}

// TestVirshNodedevEvent: virsh nodedev-event prints what happens, in order.
func TestVirshNodedevEvent(t *testing.T) {
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip("virsh is not installed (package libvirt-clients)")
	}
	b := newTestbed(t)
	cmd := exec.Command(virsh, "-c", "qemu:///system?socket="+b.sock, "nodedev-event", "--event", "lifecycle", "--loop")
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
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
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	// virsh does not say when it is ready: let the device come and go until it shows something.
	b.addDummy(t)
	const created = "event 'lifecycle' for node device net_dummy0_52_54_00_00_00_01: Created"
	const deleted = "event 'lifecycle' for node device net_dummy0_52_54_00_00_00_01: Deleted"
	next := ""
	for end := time.Now().Add(20 * time.Second); next == ""; {
		b.uevents <- nodedev.Uevent{Action: "remove", Path: dummyDevice}
		b.uevents <- nodedev.Uevent{Action: "add", Path: dummyDevice}
		select {
		case next = <-lines:
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("virsh shows nothing")
		}
	}
	for range 2 {
		if next != created && next != deleted {
			t.Fatalf("virsh prints %q", next)
		}
		want := map[string]string{created: deleted, deleted: created}[next]
		if want == deleted {
			b.uevents <- nodedev.Uevent{Action: "remove", Path: dummyDevice}
			b.uevents <- nodedev.Uevent{Action: "add", Path: dummyDevice}
		}
		select {
		case next = <-lines:
			if next != want {
				t.Fatalf("virsh prints %q, want %q", next, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("virsh does not print %q", want)
		}
	}
}

// TestNodeDeviceCalls: the calls and flags that virsh 9.0 does not make.
func TestNodeDeviceCalls(t *testing.T) {
	b := newTestbed(t)
	l := b.libvirt(t)
	all, err := l.NodeNumOfDevices(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names, err := l.NodeListDevices(libvirt.OptString{"usb"}, 1, 0)
	if err != nil || !slices.Equal(names, []string{"usb_1_0_1_0"}) {
		t.Errorf("%v, %v", names, err)
	}
	for flags, want := range map[libvirt.ConnectListAllNodeDeviceFlags]int{
		0: int(all), libvirt.ConnectListNodeDevicesActive: int(all), libvirt.ConnectListNodeDevicesInactive: 0,
		libvirt.ConnectListNodeDevicesActive | libvirt.ConnectListNodeDevicesInactive: int(all),
		libvirt.ConnectListNodeDevicesPersistent:                                      1,
		libvirt.ConnectListNodeDevicesTransient:                                       int(all) - 1,
		libvirt.ConnectListNodeDevicesCapVpd:                                          0,
		libvirt.ConnectListNodeDevicesCapSystem | libvirt.ConnectListNodeDevicesCapFcHost | libvirt.ConnectListNodeDevicesActive: 2,
	} {
		for _, results := range []int32{0, 1} {
			devices, n, err := l.ConnectListAllNodeDevices(results, uint32(flags))
			if err != nil || int(n) != want || len(devices) != want*int(results) {
				t.Errorf("flags %#x: %d devices, number %d, %v; want %d", uint32(flags), len(devices), n, err, want)
			}
		}
	}
	if _, _, err := l.ConnectListAllNodeDevices(1, 1<<24); err == nil || !strings.Contains(err.Error(), "unsupported flags (0x1000000)") {
		t.Errorf("unknown flag: %v", err)
	}
	caps, err := l.NodeDeviceListCaps("scsi_host2", 2)
	if n, nerr := l.NodeDeviceNumOfCaps("scsi_host2"); err != nil || nerr != nil || n != 3 || !slices.Equal(caps, []string{"scsi_host", "fc_host"}) {
		t.Errorf("capabilities: %d %v, %v %v", n, caps, err, nerr)
	}
	if caps, err := l.NodeDeviceListCaps("computer", -1); err != nil || len(caps) != 0 {
		t.Errorf("no room for capabilities: %v, %v", caps, err)
	}
	if _, err := l.NodeDeviceGetXMLDesc("computer", 1); err != nil {
		t.Error(err)
	}
	if _, err := l.NodeDeviceGetXMLDesc("scsi_host2", 1); err == nil || !strings.Contains(err.Error(), "node device 'scsi_host2' is not persistent") {
		t.Errorf("the inactive definition: %v", err)
	}
}
