package nodedev

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/nodedev/nodedevtest"
	"virtd/virterr"
)

const (
	vgpuParent = "pci_0000_00_07_0"
	vgpuUUID   = "5e8c1a52-1b4f-4c8e-9d5f-000000000001"
	vgpuName   = "mdev_5e8c1a52_1b4f_4c8e_9d5f_000000000001_0000_00_07_0"
	vgpuXML    = `<device><parent>` + vgpuParent + `</parent><capability type='mdev'><type id='exvgpu-1'/><uuid>` + vgpuUUID + `</uuid></capability></device>`
	vgpuPath   = "devices/pci0000:00/0000:00:07.0/" + vgpuUUID
)

// mdevBed is the recorded host with a kernel that makes mediated devices.
type mdevBed struct {
	*Manager
	t      *testing.T
	cfg    Config
	kernel *nodedevtest.Kernel
	events chan Event
}

func newMdevBed(t *testing.T) *mdevBed {
	t.Helper()
	cfg := testConfig(t)
	b := &mdevBed{t: t, kernel: &nodedevtest.Kernel{Root: cfg.Sys, Fail: map[string]error{}}}
	cfg.State, cfg.Proc, cfg.Dev, cfg.Write = filepath.Join(t.TempDir(), "mdevs"), t.TempDir(), t.TempDir(), b.kernel.Write
	b.cfg = cfg
	b.boot("boot-1")
	return b
}

// open is a start of virtd.
func (b *mdevBed) open() {
	b.t.Helper()
	if b.Manager != nil {
		b.Close()
	}
	source := newFakeSource()
	b.kernel.Events = func(action, path string) {
		source.messages <- Uevent{action, path}
		source.messages <- Uevent{"change", "devices/of/nobody"} // is taken when the first was handled, so that no test depends on who is faster
	}
	b.cfg.Listen = func() (Source, error) { return source, nil }
	m, err := Open(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(closing(m))
	b.Manager = m
	b.events = make(chan Event, 100)
	m.Subscribe(func(e Event) { b.events <- e })
}

// closing returns a Close that may come after another one.
func closing(m *Manager) func() {
	return func() {
		select {
		case <-m.done:
		default:
			m.Close()
		}
	}
}

// boot is a boot of the host: the kernel forgets the devices that it made.
func (b *mdevBed) boot(id string) {
	b.t.Helper()
	if b.Manager != nil {
		b.Close()
		b.Manager = nil
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Sys, vgpuPath)); err == nil {
		b.kernel.Events = nil
		if err := b.kernel.Write(filepath.Join(b.cfg.Sys, vgpuPath, "remove"), "1"); err != nil {
			b.t.Fatal(err)
		}
	}
	put(b.t, filepath.Join(b.cfg.Proc, "sys/kernel/random/boot_id"), id+"\n")
	b.open()
}

// is checks what clients are told of the device's state.
func (b *mdevBed) is(active, persistent, autostart bool) {
	b.t.Helper()
	d, err := b.Lookup(vgpuName)
	if err != nil {
		b.t.Fatal(err)
	}
	if d.Active != active || d.Persistent != persistent || d.Autostart != autostart {
		b.t.Errorf("active %v, persistent %v, autostart %v; want %v, %v, %v", d.Active, d.Persistent, d.Autostart, active, persistent, autostart)
	}
	listed := slices.ContainsFunc(b.List(), func(l Device) bool { return l.Name == vgpuName && l.Active == active })
	if !listed {
		b.t.Error("the device is not in the list")
	}
}

func (b *mdevBed) fails(err error, code virterr.Code, text string) {
	b.t.Helper()
	if e := virterr.As(err); e == nil || e.Code != code || e.From != virterr.FromNodeDev && code != virterr.XMLInvalidSchema || !strings.Contains(e.Error(), text) {
		b.t.Errorf("got %v, want code %d and %q", err, code, text)
	}
}

func (b *mdevBed) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// TestTransientMdev: a device that is made from a document ends when it is destroyed.
func TestTransientMdev(t *testing.T) {
	b := newMdevBed(t)
	ctx := context.Background()
	name, err := b.Create(ctx, vgpuXML, true)
	b.ok(err)
	if name != vgpuName {
		t.Fatalf("it is called %s", name)
	}
	b.is(true, false, false)
	expect(t, b.events, Event{Created, vgpuName})
	if parent, err := b.Parent(name); err != nil || parent != vgpuParent {
		t.Errorf("parent %s, %v", parent, err)
	}
	text, err := b.XML(vgpuParent)
	if err != nil || !strings.Contains(text, "<availableInstances>2<") {
		t.Errorf("%v\n%s", err, text)
	}
	_, err = b.Create(ctx, vgpuXML, false)
	b.fails(err, virterr.InternalError, "Unable to start mediated device: there is a device with the uuid "+vgpuUUID+" already, on 0000:00:07.0")
	b.fails(b.Undefine(name), virterr.OperationInvalid, "Node device '"+name+"' is not defined")
	b.fails(b.SetAutostart(name, true), virterr.OperationInvalid, "cannot set autostart for transient device")
	b.fails(b.Start(ctx, name), virterr.OperationInvalid, "Device is already active")
	_, err = b.DefinedXML(name)
	b.fails(err, virterr.OperationInvalid, "is not persistent")
	b.ok(b.Destroy(ctx, name))
	expect(t, b.events, Event{Deleted, vgpuName})
	b.fails(b.Destroy(ctx, name), virterr.NoNodeDevice, "no node device with matching name")
}

// TestPersistentMdev: a definition survives restarts of virtd and boots of the host, and the device's end.
func TestPersistentMdev(t *testing.T) {
	b := newMdevBed(t)
	ctx := context.Background()
	name, err := b.Define(vgpuXML, false)
	b.ok(err)
	expect(t, b.events, Event{Defined, name})
	b.open()
	b.is(false, true, false)
	if parent, err := b.Parent(name); err != nil || parent != vgpuParent {
		t.Errorf("parent %s, %v", parent, err)
	}
	want := "<device>\n  <name>" + name + "</name>\n  <parent>" + vgpuParent + "</parent>\n  <capability type='mdev'>\n    <type id='exvgpu-1'/>\n    <uuid>" +
		vgpuUUID + "</uuid>\n    <parent_addr>0000:00:07.0</parent_addr>\n  </capability>\n</device>\n"
	for i, describe := range []func(string) (string, error){b.XML, b.DefinedXML} {
		if text, err := describe(name); err != nil || text != want {
			t.Errorf("%d: %v\n%s", i, err, text)
		}
	}
	b.fails(b.Destroy(ctx, name), virterr.OperationInvalid, "Device '"+name+"' is not active")
	b.ok(b.Start(ctx, name))
	expect(t, b.events, Event{Created, name})
	b.is(true, true, false)

	// another definition leaves the device as it is
	changed := strings.Replace(vgpuXML, "<uuid>", "<attr name='rate' value='7'/><uuid>", 1)
	_, err = b.Define(changed, false)
	b.ok(err)
	expect(t, b.events, Event{Changed, name})
	_, err = b.Define(changed, false)
	b.ok(err)
	if text, err := b.XML(name); err != nil || strings.Contains(text, "<attr") || !strings.Contains(text, "<iommuGroup number='102'/>") {
		t.Errorf("%v\n%s", err, text)
	}
	if text, err := b.DefinedXML(name); err != nil || !strings.Contains(text, "<attr name='rate' value='7'/>") {
		t.Errorf("%v\n%s", err, text)
	}

	b.ok(b.Destroy(ctx, name))
	expect(t, b.events, Event{Deleted, name}) // the same definition a second time told nothing
	b.is(false, true, false)
	b.fails(b.Start(ctx, name), virterr.InternalError, "Unable to create mediated device: set its attribute rate to '7': No such file or directory")
	b.is(false, true, false)
	b.kernel.MdevAttrs = "rate 1" // a driver with this attribute
	b.ok(b.Start(ctx, name))
	if text, err := b.XML(name); err != nil || !strings.Contains(text, "<attr name='rate' value='7'/>") {
		t.Errorf("%v\n%s", err, text)
	}
	b.ok(b.Undefine(name))
	b.is(true, false, false)
	b.ok(b.Destroy(ctx, name))
	if left, err := os.ReadDir(b.cfg.State); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestMdevAutostart: once in each boot, and when the parent comes later.
func TestMdevAutostart(t *testing.T) {
	b := newMdevBed(t)
	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); b.Autostart(ctx) }()
		return func() { cancel(); <-done }
	}
	_, err := b.Define(vgpuXML, false)
	b.ok(err)
	b.ok(b.SetAutostart(vgpuName, true))
	b.ok(b.SetAutostart(vgpuName, true))
	expect(t, b.events, Event{Defined, vgpuName}, Event{Changed, vgpuName})
	b.open()
	stop := run()
	expect(t, b.events, Event{Created, vgpuName})
	stop()
	b.is(true, true, true)
	b.ok(b.Destroy(context.Background(), vgpuName))
	b.open()
	run()() // an administrator destroyed it in this boot
	b.is(false, true, true)

	types := filepath.Join(b.cfg.Sys, "devices/pci0000:00/0000:00:07.0", supportedTypes)
	b.ok(os.Rename(types, types+".off"))
	b.boot("boot-2")
	stop = run()
	b.kernel.Events("change", "devices/pci0000:00/0000:00:07.0") // not yet
	expect(t, b.events, Event{Changed, vgpuParent})
	b.is(false, true, true)
	b.ok(os.Rename(types+".off", types))
	b.kernel.Events("change", "devices/pci0000:00/0000:00:07.0")
	expect(t, b.events, Event{Changed, vgpuParent}, Event{Created, vgpuName})
	stop()
	b.ok(b.SetAutostart(vgpuName, false))
	b.boot("boot-3")
	run()()
	b.is(false, true, false)
}

// TestMdevRefusals: what cannot be made, and nothing is left of it.
func TestMdevRefusals(t *testing.T) {
	b := newMdevBed(t)
	ctx := context.Background()
	doc := func(parent, capability string) string {
		return "<device><name>x</name>" + parent + capability + "</device>"
	}
	const parent = "<parent>" + vgpuParent + "</parent>"
	const mdev = "<capability type='mdev'><type id='exvgpu-1'/></capability>"
	for name, c := range map[string]struct {
		xml  string
		code virterr.Code
		text string
	}{
		"not XML":         {"<device", virterr.XMLError, ""},
		"another root":    {"<domain/>", virterr.XMLError, "unexpected root element <domain>, expecting <device>"},
		"no capability":   {doc(parent, ""), virterr.InternalError, "no device capabilities for 'new device'"},
		"no type":         {doc(parent, "<capability/>"), virterr.XMLError, "Missing required attribute 'type' in element 'capability'"},
		"unknown type":    {doc(parent, "<capability type='disk'/>"), virterr.XMLError, "Invalid value for attribute 'type' in element 'capability': 'disk'."},
		"a PCI function":  {doc(parent, "<capability type='pci'/>"), virterr.ConfigUnsupported, "Unsupported device type"},
		"a virtual HBA":   {doc("<parent>scsi_host2</parent>", "<capability type='scsi_host'><capability type='fc_host'/></capability>"), virterr.ConfigUnsupported, "Unsupported device type"},
		"no mdev type":    {doc(parent, "<capability type='mdev'/>"), virterr.ConfigUnsupported, "missing type id attribute for 'new device'"},
		"bad uuid":        {doc(parent, "<capability type='mdev'><type id='exvgpu-1'/><uuid>1</uuid></capability>"), virterr.InternalError, "Invalid uuid '1' for new mdev device"},
		"bad attribute":   {doc(parent, "<capability type='mdev'><type id='exvgpu-1'/><attr name='a'/></capability>"), virterr.ConfigUnsupported, "mdev attribute missing name or value"},
		"no parent":       {doc("", mdev), virterr.ConfigUnsupported, "missing parent device"},
		"unknown parent":  {doc("<parent>nosuch</parent>", mdev), virterr.ConfigUnsupported, "invalid parent device 'nosuch'"},
		"parent is a NIC": {doc("<parent>net_enp1s0_52_54_00_aa_00_01</parent>", mdev), virterr.ParseFailed, "Unable to find address for parent device"},
	} {
		_, err := b.Create(ctx, c.xml, false)
		if name == "not XML" {
			if !virterr.Is(err, c.code) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		t.Log(name)
		b.fails(err, c.code, c.text)
		_, err = b.Define(c.xml, false)
		b.fails(err, c.code, c.text)
	}
	for name, c := range map[string]struct{ xml, text string }{
		"no such type":   {strings.Replace(vgpuXML, "exvgpu-1", "exvgpu-9", 1), "pci_0000_00_07_0 has no type exvgpu-9; it has exvgpu-1, exvgpu-8"},
		"a path as type": {strings.Replace(vgpuXML, "exvgpu-1", "../../x", 1), "has no type ../../x"},
		"none available": {strings.Replace(vgpuXML, "exvgpu-1", "exvgpu-8", 1), "can make no more devices of type exvgpu-8"},
		"no types":       {strings.Replace(vgpuXML, vgpuParent, "pci_0000_01_00_0", 1), "pci_0000_01_00_0 cannot make mediated devices"},
		"attribute away": {strings.Replace(vgpuXML, "<uuid>", "<attr name='../x' value='1'/><uuid>", 1), "set its attribute ../x to '1': this is no attribute"},
		"attribute link": {strings.Replace(vgpuXML, "<uuid>", "<attr name='mdev_type/create' value='1'/><uuid>", 1), "it is not in the device's folder"},
		"remove":         {strings.Replace(vgpuXML, "<uuid>", "<attr name='remove' value='1'/><uuid>", 1), "this is no attribute"},
		"no attribute":   {strings.Replace(vgpuXML, "<uuid>", "<attr name='a/b' value='1'/><uuid>", 1), "No such file or directory"},
	} {
		_, err := b.Create(ctx, c.xml, false)
		t.Log(name)
		b.fails(err, virterr.InternalError, "Unable to start mediated device: ")
		b.fails(err, virterr.InternalError, c.text)
	}
	_, err := b.Create(ctx, strings.Replace(vgpuXML, "<uuid>", "<size/><uuid>", 1), true)
	b.fails(err, virterr.XMLInvalidSchema, "element 'size' has no place in 'capability'")
	b.kernel.Fail["exvgpu-1/create"] = unix.EACCES
	_, err = b.Create(ctx, vgpuXML, false)
	b.fails(err, virterr.InternalError, "the kernel does not make a exvgpu-1 on pci_0000_00_07_0: Permission denied (the system's virtd may do it, as root)")
	if _, err := b.Lookup(vgpuName); err == nil {
		t.Error("a refused device is listed")
	}
	for _, name := range []string{"computer", vgpuParent} {
		b.fails(b.Destroy(ctx, name), virterr.ConfigUnsupported, "Unsupported device type")
		b.fails(b.Start(ctx, name), virterr.OperationInvalid, "Device is already active")
		b.fails(b.SetAutostart(name, true), virterr.OperationUnsupported, "Unsupported device type")
	}
	b.fails(b.Undefine("computer"), virterr.ConfigUnsupported, "Unsupported device type")
	b.fails(b.Undefine(vgpuParent), virterr.OperationInvalid, "is not defined")
}

// TestMdevInUse: a device that a guest has is not destroyed; nor is one that the kernel keeps.
func TestMdevInUse(t *testing.T) {
	b := newMdevBed(t)
	ctx := context.Background()
	_, err := b.Create(ctx, vgpuXML, false)
	b.ok(err)
	for _, failure := range []error{unix.EBUSY, unix.EIO} {
		b.kernel.Fail[vgpuUUID+"/remove"] = failure
		err := b.Destroy(ctx, vgpuName)
		text := "Unable to destroy '" + vgpuName + "': device in use"
		if failure == unix.EIO {
			text = "Unable to destroy '" + vgpuName + "': Input/output error"
		}
		b.fails(err, virterr.InternalError, text)
	}
	b.is(true, false, false)
}

// TestMdevWithoutEvents: where no uevents are heard, the device is looked for.
func TestMdevWithoutEvents(t *testing.T) {
	cfg := testConfig(t)
	kernel := &nodedevtest.Kernel{Root: cfg.Sys}
	cfg.Write, cfg.Proc, cfg.Dev = kernel.Write, t.TempDir(), t.TempDir()
	m := open(t, cfg)
	if _, err := m.Create(context.Background(), vgpuXML, false); err != nil {
		t.Fatal(err)
	}
	if err := m.Destroy(context.Background(), vgpuName); err != nil {
		t.Fatal(err)
	}
	_, err := m.Define(vgpuXML, false)
	if !virterr.Is(err, virterr.InternalError) || !strings.Contains(err.Error(), "no folder for definitions") {
		t.Errorf("a definition without a folder: %v", err)
	}
}

// TestMdevRecords: files that cannot be understood are left where they are, and hide nothing else.
func TestMdevRecords(t *testing.T) {
	b := newMdevBed(t)
	_, err := b.Define(vgpuXML, false)
	b.ok(err)
	good, err := os.ReadFile(filepath.Join(b.cfg.State, vgpuName+".json"))
	b.ok(err)
	bad := map[string]string{"empty": "", "cut": string(good[:len(good)/2]), "newer": strings.Replace(string(good), `"version":1`, `"version":9`, 1),
		"renamed": string(good), "list": "[]"}
	for name, text := range bad {
		put(t, filepath.Join(b.cfg.State, name+".json"), text)
	}
	put(t, filepath.Join(b.cfg.State, ".new-x.json"), "cut short")
	var log strings.Builder
	b.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	b.open()
	b.is(false, true, false)
	if n := strings.Count(log.String(), "left alone"); n != len(bad) || len(b.defined) != 1 {
		t.Errorf("%d complaints, %d definitions\n%s", n, len(b.defined), log.String())
	}
	for name := range bad {
		if _, err := os.Stat(filepath.Join(b.cfg.State, name+".json")); err != nil {
			t.Error(err)
		}
	}
	b.ok(os.RemoveAll(b.cfg.State))
	put(t, b.cfg.State, "not a folder")
	b.open()
	if _, err := b.Lookup(vgpuName); !virterr.Is(err, virterr.NoNodeDevice) {
		t.Errorf("without its file: %v", err)
	}
}

// TestMdevDefinitionFails: a change that cannot be kept changes nothing.
func TestMdevDefinitionFails(t *testing.T) {
	b := newMdevBed(t)
	_, err := b.Define(vgpuXML, false)
	b.ok(err)
	b.ok(os.RemoveAll(b.cfg.State))
	b.fails(b.SetAutostart(vgpuName, true), virterr.InternalError, "Unable to set autostart on '"+vgpuName+"'")
	b.is(false, true, false)
	_, err = b.Define(strings.Replace(vgpuXML, "exvgpu-1", "exvgpu-8", 1), false)
	b.fails(err, virterr.InternalError, "Unable to define mediated device: ")
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("the cause is lost: %v", err)
	}
}

// FuzzMdev: any document is refused with an error that clients understand, or has a definition that reads back as it is.
func FuzzMdev(f *testing.F) {
	f.Add(vgpuXML)
	f.Add(strings.Replace(vgpuXML, "<uuid>", "<attr name='&#x9;' value='&quot;&lt;'/><uuid>", 1))
	f.Add("<device><capability type='mdev'><type id='x'/></capability></device>")
	m := open(f, testConfig(f))
	f.Fuzz(func(t *testing.T, text string) {
		d, err := m.parseMdev(text, false)
		if err != nil {
			if e := virterr.As(err); e == nil || e.Message == "" {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := m.parseMdev(d.document(vgpuParent).String(), true)
		if err != nil || again.UUID != d.UUID || again.Type != d.Type || len(again.Attrs) != len(d.Attrs) {
			t.Errorf("%+v reads back as %+v, %v", d, again, err)
		}
	})
}

// FuzzMdevRecord: any file in the folder of definitions is refused or is the definition of the device that it is named by.
func FuzzMdevRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"uuid":"` + vgpuUUID + `","parent":"0000:00:07.0","type":"exvgpu-1"}`))
	f.Add([]byte(`{"version":1,"uuid":"` + vgpuUUID + `","parent":"0000:00:07.0","type":"../..","attrs":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := decodeMdev(text, vgpuName); err == nil && r.name() != vgpuName {
			t.Errorf("%+v", r)
		}
	})
}
