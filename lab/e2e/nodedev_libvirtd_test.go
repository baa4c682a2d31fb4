package e2e

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"virtd/lab/labtest"
	"virtd/rpc"
	"virtd/rpc/client"
)

// TestLabNodeDevicesLikeLibvirtd: every device of the lab is told of as Debian's libvirtd tells of it, next to virtd and on the
// same sysfs, and libvirt's schema accepts every document.
func TestLabNodeDevicesLikeLibvirtd(t *testing.T) {
	labtest.Need(t, labtest.SRIOV, labtest.Program("xmllint"))
	for _, module := range []string{"igb", "e1000e", "nvme"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	withFunctions(t, "2")
	udevDatabase(t, "/run")
	h := startHost(t)
	peer := startLibvirtd(t, h.path("libvirtd"))
	ours, theirs := h.devices(h.path("sock/libvirt-sock")), h.devices(peer)
	for _, name := range sortedNames(ours, theirs) {
		mine, other := ours[name], theirs[name]
		if mine.xml == "" || other.xml == "" {
			t.Errorf("%s: virtd has it: %v, libvirtd has it: %v", name, mine.xml != "", other.xml != "")
			continue
		}
		a, b := meaning(t, mine.xml), meaning(t, other.xml)
		for _, d := range accepted {
			a, b = d.apply(a), d.apply(b)
		}
		if !slices.Equal(a, b) {
			t.Errorf("%s: only virtd says %q, only libvirtd says %q\nvirtd:\n%s\nlibvirtd:\n%s", name, without(a, b), without(b, a), mine.xml, other.xml)
		}
		mine.xml, other.xml = "", ""
		if fmt.Sprint(mine) != fmt.Sprint(other) {
			t.Errorf("%s: virtd says %+v, libvirtd says %+v", name, mine, other)
		}
	}
	valid(t, ours)
}

// accepted are the differences between documents that are as they shall be.
var accepted = []difference{
	{"libvirtd reads the kernel's -1, a speed that is not known, as a number", "link[speed=4294967295 state=up]", "link[state=up]"},
	{"the lab's firmware has no UUID: libvirtd makes one up at each start, virtd has one that stays", "/device[]/capability[type=system]/hardware[]/uuid[] ", ""},
}

// difference is a part of what is said of an element, and what it counts as: "" leaves the element out.
type difference struct{ why, said, counts string }

func (d difference) apply(list []string) []string {
	var out []string
	for _, line := range list {
		switch {
		case !strings.Contains(line, d.said):
			out = append(out, line)
		case d.counts != "":
			out = append(out, strings.ReplaceAll(line, d.said, d.counts))
		}
	}
	return out
}

// toldOf is what a daemon says of a device.
type toldOf struct {
	xml                           string
	parent                        string
	caps                          []string
	active, persistent, autostart int32
}

// devices asks a daemon for all devices.
func (h *host) devices(socket string) map[string]toldOf {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, socket)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	call := func(procedure uint32, args, ret any) {
		h.t.Helper()
		if err := c.Call(ctx, rpc.ProgramRemote, procedure, args, ret); err != nil {
			h.t.Fatalf("%s: %+v: %v", socket, args, err)
		}
	}
	uri := "nodedev:///system"
	if strings.HasPrefix(socket, h.path("sock")) {
		uri = "qemu:///system"
	}
	if err := c.Open(ctx, uri, false); err != nil { // libvirt 9.0 forbids GET_AUTOSTART to readers
		h.t.Fatalf("%s: %v", socket, err)
	}
	var list libvirt.ConnectListAllNodeDevicesRet
	call(rpc.ProcConnectListAllNodeDevices, &libvirt.ConnectListAllNodeDevicesArgs{NeedResults: 1}, &list)
	out := map[string]toldOf{}
	for _, d := range list.Devices {
		var text libvirt.NodeDeviceGetXMLDescRet
		var parent libvirt.NodeDeviceGetParentRet
		var caps libvirt.NodeDeviceListCapsRet
		var active libvirt.NodeDeviceIsActiveRet
		var persistent libvirt.NodeDeviceIsPersistentRet
		var autostart libvirt.NodeDeviceGetAutostartRet
		call(rpc.ProcNodeDeviceGetXMLDesc, &libvirt.NodeDeviceGetXMLDescArgs{Name: d.Name}, &text)
		if d.Name != "computer" { // libvirtd calls its lack of a parent an error, in some versions
			call(rpc.ProcNodeDeviceGetParent, &libvirt.NodeDeviceGetParentArgs{Name: d.Name}, &parent)
		}
		call(rpc.ProcNodeDeviceListCaps, &libvirt.NodeDeviceListCapsArgs{Name: d.Name, Maxnames: 100}, &caps)
		call(rpc.ProcNodeDeviceIsActive, &libvirt.NodeDeviceIsActiveArgs{Name: d.Name}, &active)
		call(rpc.ProcNodeDeviceIsPersistent, &libvirt.NodeDeviceIsPersistentArgs{Name: d.Name}, &persistent)
		call(rpc.ProcNodeDeviceGetAutostart, &libvirt.NodeDeviceGetAutostartArgs{Name: d.Name}, &autostart)
		slices.Sort(caps.Names)
		out[d.Name] = toldOf{text.XML, strings.Join(parent.ParentName, ""), caps.Names, active.Active, persistent.Persistent, autostart.Autostart}
	}
	return out
}

// meaning is a document as a sorted list of what it says, each element with its path, attributes and text.
func meaning(t *testing.T, text string) []string {
	t.Helper()
	type element struct {
		XMLName xml.Name
		Attrs   []xml.Attr `xml:",any,attr"`
		Text    string     `xml:",chardata"`
		Inner   []element  `xml:",any"`
	}
	var out []string
	var walk func(path string, e element)
	walk = func(path string, e element) {
		path += "/" + e.XMLName.Local
		var attrs []string
		for _, a := range e.Attrs {
			attrs = append(attrs, a.Name.Local+"="+a.Value)
		}
		slices.Sort(attrs)
		path += fmt.Sprint(attrs)
		out = append(out, path+" "+strings.TrimSpace(e.Text))
		for _, inner := range e.Inner {
			walk(path, inner)
		}
	}
	var root element
	if err := xml.Unmarshal([]byte(text), &root); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	walk("", root)
	slices.Sort(out)
	return out
}

// without are the elements of a that b has not.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

func sortedNames(maps ...map[string]toldOf) []string {
	var names []string
	for _, m := range maps {
		for name := range m {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// valid checks the documents against libvirt's schema.
func valid(t *testing.T, devices map[string]toldOf) {
	t.Helper()
	dir := t.TempDir()
	args := []string{"--noout", "--nonet", "--relaxng", "/usr/share/libvirt/schemas/nodedev.rng"}
	for name, d := range devices {
		file := filepath.Join(dir, name+".xml")
		if err := os.WriteFile(file, []byte(d.xml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	if out, err := exec.Command("xmllint", args...).CombinedOutput(); err != nil || len(devices) < 10 {
		t.Errorf("%d documents: %v\n%s", len(devices), err, out)
	}
}

// udevDatabase says of disks what udevd would, which the lab does not have: libvirtd knows only what udevd says of them.
func udevDatabase(t *testing.T, run string) {
	t.Helper()
	dir := filepath.Join(run, "udev/data")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Join(run, "udev")) })
	disks, _ := filepath.Glob("/sys/class/block/*")
	for _, disk := range disks {
		name := filepath.Base(disk)
		number, err := os.ReadFile(filepath.Join(disk, "dev"))
		if err != nil || strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") {
			continue
		}
		entry := fmt.Sprintf("S:disk/by-id/lab-%s\nI:1\nE:ID_TYPE=disk\nE:ID_SERIAL=LAB_%s\nE:ID_BUS=lab\n", name, name)
		if err := os.WriteFile(filepath.Join(dir, "b"+strings.TrimSpace(string(number))), []byte(entry), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// withFunctions makes virtual functions of the lab's igb card, for the time of the test.
func withFunctions(t *testing.T, number string) {
	t.Helper()
	const igb = "/sys/bus/pci/devices/0000:01:00.0"
	set := func(n string) error { return os.WriteFile(igb+"/sriov_numvfs", []byte(n), 0) }
	if err := set("0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set("0") })
	interfaces, err := filepath.Glob(igb + "/net/*")
	if err != nil || len(interfaces) != 1 {
		t.Fatalf("interfaces of the igb card: %v, %v", interfaces, err)
	}
	if out, err := exec.Command("ip", "link", "set", filepath.Base(interfaces[0]), "up").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := set(number); err != nil {
		t.Fatal(err)
	}
}

// startLibvirtd starts Debian's libvirtd, with nothing but its driver of devices, and returns its socket. dir is for what it
// writes.
func startLibvirtd(t *testing.T, dir string) string {
	t.Helper()
	root := labtest.Libvirtd(t)
	for _, sub := range []string{"etc/libvirt", "run", "var/lib/libvirt", "var/cache/libvirt"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	udevDatabase(t, filepath.Join(dir, "run"))
	for file, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\nlibvirt:x:120:\n",
		"etc/libvirt/libvirtd.conf": "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{filepath.Join(dir, "etc"): "etc", filepath.Join(dir, "run"): "run", filepath.Join(dir, "var"): "var",
		"/dev": "dev", "/proc": "proc", "/sys": "sys", "/usr/share": "usr/share"} {
		at := filepath.Join(root, to)
		if err := unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatalf("mount %s for libvirtd: %v", to, err)
		}
		t.Cleanup(func() {
			unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, "") // that what is mounted in it stays where it comes from
			unix.Unmount(at, unix.MNT_DETACH)
		})
	}
	var printed output
	cmd := exec.Command("/usr/sbin/libvirtd")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = &printed, &printed
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("libvirtd says: %s", printed.String())
		}
	})
	socket := filepath.Join(dir, "run/libvirt/libvirt-sock")
	for end := time.Now().Add(time.Minute); !exists(socket); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("libvirtd does not open its socket")
		}
	}
	return socket
}
