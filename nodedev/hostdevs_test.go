package nodedev

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/nodedev/nodedevtest"
)

// Functions of the recorded host.
var (
	igb    = Address{Bus: 1}
	vf0    = Address{Bus: 1, Device: 0x10}
	vf1    = Address{Bus: 1, Device: 0x10, Function: 2}
	e1000e = Address{Bus: 2}
	atNVMe = Address{Bus: 3}
)

// hostdevBed is the recorded host with a kernel that can be written to.
type hostdevBed struct {
	t      *testing.T
	kernel *nodedevtest.Kernel
	cfg    HostdevsConfig
	links  *fakeLinks
	*Hostdevs
}

// newHostdevs adds to the recorded host what detaching looks at.
func newHostdevs(t *testing.T) *hostdevBed {
	t.Helper()
	root := nodedevtest.Load(t, "testdata/host.tree")
	for _, a := range []Address{igb, vf0, vf1, e1000e, atNVMe} {
		dev, err := os.Readlink(filepath.Join(root, "bus/pci/devices", a.String()))
		if err != nil {
			t.Fatal(err)
		}
		at := strings.TrimPrefix(dev, "../../../")
		nodedevtest.Build(t, root, "@ "+at+"\nreset 0\nclass 0x020000\n")
	}
	return newHostdevsOn(t, root, map[string]string{
		igb.String(): "igb", vf0.String(): "igbvf", vf1.String(): "igbvf", e1000e.String(): "e1000e", atNVMe.String(): "nvme"})
}

// newHostdevsOn does it on another host, whose functions have these drivers by themselves.
func newHostdevsOn(t *testing.T, root string, native map[string]string) *hostdevBed {
	t.Helper()
	proc := t.TempDir()
	for file, text := range map[string]string{
		"sys/kernel/random/boot_id": "boot-1\n",
		"net/route":                 "Iface\tDestination\tGateway\n",
		"self/mountinfo":            "22 1 253:0 / / rw - ext4 /dev/vda rw\n",
	} {
		put(t, filepath.Join(proc, file), text)
	}
	b := &hostdevBed{t: t, links: &fakeLinks{m: map[int]FunctionConfig{}}, kernel: &nodedevtest.Kernel{Root: root, Tries: map[string]int{}, Fail: map[string]error{}, Native: native}}
	b.cfg = HostdevsConfig{Sys: root, Proc: proc, Dev: t.TempDir(), State: filepath.Join(t.TempDir(), "detached"), Log: slog.New(slog.DiscardHandler),
		Write: b.kernel.Write, Functions: b.links, Modprobe: func(_ context.Context, module string) error {
			return os.MkdirAll(filepath.Join(root, "bus/pci/drivers", module), 0o755)
		}}
	b.open()
	return b
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// open is a start of virtd.
func (b *hostdevBed) open() {
	b.t.Helper()
	h, err := OpenHostdevs(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Hostdevs = h
}

func (b *hostdevBed) boot(id string) {
	put(b.t, filepath.Join(b.cfg.Proc, "sys/kernel/random/boot_id"), id+"\n")
	b.open()
}

func (b *hostdevBed) has(a Address, driver string) {
	b.t.Helper()
	if now := b.Driver(a); now != driver {
		b.t.Errorf("%s has driver %q, want %q", a, now, driver)
	}
}

func (b *hostdevBed) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// refuses wants an error that says all of that, and the host as it was.
func (b *hostdevBed) refuses(err error, says ...string) {
	b.t.Helper()
	if err == nil {
		b.t.Fatalf("no error; want one that says %q", says)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			b.t.Errorf("error %q does not say %q", err, s)
		}
	}
}

// fakeLinks is a physical function in memory.
type fakeLinks struct {
	m    map[int]FunctionConfig
	fail error
	half bool   // fails once, when some of it is done
	last string // the interface that was told something last
}

func (f *fakeLinks) Function(_ string, vf int) (FunctionConfig, error) { return f.m[vf], nil }

func (f *fakeLinks) SetFunction(pf string, vf int, c FunctionConfig) error {
	f.last = pf
	failure := f.fail
	if failure != nil && !f.half {
		return failure
	}
	if f.half {
		f.fail, f.half = nil, false
	}
	now := f.m[vf]
	if c.MAC != "" {
		now.MAC = c.MAC
	}
	if c.VLAN != nil {
		now.VLAN = c.VLAN
	}
	if c.Trust != nil {
		now.Trust = c.Trust
	}
	f.m[vf] = now
	return failure
}

func TestDetachAndReattach(t *testing.T) {
	b := newHostdevs(t)
	ctx := context.Background()
	b.ok(b.Detach(ctx, e1000e, DetachOptions{}))
	b.has(e1000e, "vfio-pci")
	if text, _ := os.ReadFile(filepath.Join(b.cfg.Sys, "bus/pci/devices", e1000e.String(), "driver_override")); strings.TrimSpace(string(text)) != "" {
		t.Errorf("driver_override is left as %q", text)
	}
	b.ok(b.Detach(ctx, e1000e, DetachOptions{})) // again: nothing to do
	b.open()                                     // virtd was restarted
	delete(b.kernel.Native, e1000e.String())     // nothing but the record knows the driver
	b.ok(b.Reattach(ctx, e1000e))
	b.has(e1000e, "e1000e")
	if left, _ := os.ReadDir(b.cfg.State); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
	b.ok(b.Reattach(ctx, e1000e)) // again: it is there
}

// A function that never had a driver goes back to none; one that others bound to vfio-pci goes to whoever wants it.
func TestReattachUnknown(t *testing.T) {
	b := newHostdevs(t)
	ctx := context.Background()
	b.ok(os.Remove(filepath.Join(b.cfg.Sys, "bus/pci/devices", vf0.String(), "driver")))
	b.ok(b.Detach(ctx, vf0, DetachOptions{}))
	b.ok(b.Reattach(ctx, vf0))
	b.has(vf0, "")
	b.ok(b.Detach(ctx, vf1, DetachOptions{}))
	b.ok(os.Remove(filepath.Join(b.cfg.State, vf1.String()+".json")))
	b.open()
	b.kernel.Tries[vf1.String()] = 2 // as igbvf of Linux 6.1, too early
	b.ok(b.Reattach(ctx, vf1))
	b.has(vf1, "igbvf")
}

func TestRecords(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		change func(b *hostdevBed)
		kept   bool
	}{
		{"restart", func(b *hostdevBed) { b.open() }, true},
		{"boot, and vfio-pci has it again", func(b *hostdevBed) { b.boot("boot-2") }, true},
		{"boot, and its driver has it", func(b *hostdevBed) {
			b.ok(b.bind(ctx, "bus/pci/devices/"+atNVMe.String(), "nvme"))
			b.boot("boot-2")
		}, false},
		{"killed while it had no driver", func(b *hostdevBed) {
			b.ok(b.bind(ctx, "bus/pci/devices/"+atNVMe.String(), ""))
			b.open()
		}, true},
		{"boot, and it has no driver", func(b *hostdevBed) {
			b.ok(b.bind(ctx, "bus/pci/devices/"+atNVMe.String(), ""))
			b.boot("boot-2")
		}, false},
		{"another card in the slot", func(b *hostdevBed) {
			put(b.t, filepath.Join(b.cfg.Sys, "bus/pci/devices", atNVMe.String(), "device"), "0x1234\n")
			b.open()
		}, false},
		{"no card in the slot", func(b *hostdevBed) {
			b.ok(os.Remove(filepath.Join(b.cfg.Sys, "bus/pci/devices", atNVMe.String())))
			b.open()
		}, false},
		{"a record cut short", func(b *hostdevBed) {
			put(b.t, filepath.Join(b.cfg.State, atNVMe.String()+".json"), "{")
			b.open()
		}, false},
		{"a record of a newer virtd", func(b *hostdevBed) {
			put(b.t, filepath.Join(b.cfg.State, atNVMe.String()+".json"), `{"version":99}`)
			b.open()
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newHostdevs(t)
			b.ok(b.Detach(ctx, atNVMe, DetachOptions{}))
			c.change(b)
			_, kept := b.detached[atNVMe]
			_, err := os.Stat(filepath.Join(b.cfg.State, atNVMe.String()+".json"))
			if kept != c.kept || (err == nil) != c.kept {
				t.Errorf("record kept: %v, its file: %v; want %v", kept, err, c.kept)
			}
		})
	}
}

func TestDetachRefuses(t *testing.T) {
	ctx := context.Background()
	nic := func(b *hostdevBed, text string) {
		nodedevtest.Build(b.t, b.cfg.Sys, text)
	}
	for _, c := range []struct {
		name   string
		at     Address
		change func(b *hostdevBed)
		says   []string
		forced bool // --force helps
	}{
		{"gone", Address{Bus: 9}, func(*hostdevBed) {}, []string{"Device 0000:09:00.0 not found: could not access"}, false},
		{"a bridge", Address{Device: 2}, func(*hostdevBed) {}, []string{"0000:00:02.0 is not assignable: it is a bridge"}, false},
		{"no IOMMU", e1000e, func(b *hostdevBed) {
			b.ok(os.Remove(filepath.Join(b.cfg.Sys, "bus/pci/devices", e1000e.String(), "iommu_group")))
		}, []string{"VFIO device assignment is currently not supported on this system", "no IOMMU group", "intel_iommu=on"}, false},
		{"no vfio-pci", e1000e, func(b *hostdevBed) {
			b.cfg.Modprobe = func(context.Context, string) error { return unix.ENOENT }
			b.open()
		}, []string{"VFIO device assignment is currently not supported", "vfio-pci cannot be loaded", "CONFIG_VFIO_PCI"}, false},
		{"bridge port", e1000e, func(b *hostdevBed) {
			nic(b, "@ devices/virtual/net/br0\nbridge/x 1\n@ devices/pci0000:00/0000:00:02.1/0000:02:00.0/net/enp2s0\nmaster -> devices/virtual/net/br0\n"+
				"@ class/net/br0\nbridge/x 1")
		}, []string{"in use by the host", "enp2s0 is a member of bridge br0", "--force"}, true},
		{"default route", e1000e, func(b *hostdevBed) {
			put(b.t, filepath.Join(b.cfg.Proc, "net/route"), "Iface Destination Gateway Flags RefCnt Use Metric Mask\nenp2s0 00000000 0102A8C0 0003 0 0 100 00000000 0 0 0\n")
		}, []string{"enp2s0 has the default route"}, true},
		{"default route over IPv6", e1000e, func(b *hostdevBed) {
			put(b.t, filepath.Join(b.cfg.Proc, "net/ipv6_route"), strings.Repeat("0", 32)+" 00 "+strings.Repeat("0", 32)+" 00 fe80000000000000000000000000000 00000400 1 0 3 enp2s0\n")
		}, []string{"enp2s0 has the default route"}, true},
		{"default route over a VLAN", e1000e, func(b *hostdevBed) {
			nic(b, "@ devices/pci0000:00/0000:00:02.1/0000:02:00.0/net/enp2s0\nupper_vlan7 -> devices/virtual/net/vlan7\n")
			put(b.t, filepath.Join(b.cfg.Proc, "net/route"), "vlan7 00000000 0102A8C0 0003 0 0 100 00000000 0 0 0\n")
		}, []string{"enp2s0 carries vlan7, which has the default route"}, true},
		{"root file system", atNVMe, func(b *hostdevBed) {
			nic(b, "@ devices/pci0000:00/0000:00:02.2/0000:03:00.0/nvme/nvme0/nvme0n1/nvme0n1p1\ndev 259:1\n")
			put(b.t, filepath.Join(b.cfg.Proc, "self/mountinfo"), "22 1 259:1 / / rw shared:1 - ext4 /dev/nvme0n1p1 rw\n")
		}, []string{"disk nvme0n1p1 holds the file system at /"}, true},
		{"file system on a multipath namespace", atNVMe, func(b *hostdevBed) {
			nic(b, "@ devices/pci0000:00/0000:00:02.2/0000:03:00.0/nvme/nvme7/nvme7c0n1\nsize 1\n"+
				"@ devices/virtual/nvme-subsystem/nvme-subsys7/nvme7n1\nsubsystem -> class/block\ndev 259:7\n")
			put(b.t, filepath.Join(b.cfg.Proc, "self/mountinfo"), "22 1 259:7 / /srv rw - ext4 /dev/nvme7n1 rw\n")
		}, []string{"disk nvme7n1 holds the file system at /srv"}, true},
		{"volume group", atNVMe, func(b *hostdevBed) {
			nic(b, "@ devices/virtual/block/dm-0\nsubsystem -> class/block\ndev 254:0\ndm/name vg-home\n"+
				"@ devices/pci0000:00/0000:00:02.2/0000:03:00.0/nvme/nvme0/nvme0n1/nvme0n1p1\nholders/dm-0 -> devices/virtual/block/dm-0\n")
			put(b.t, filepath.Join(b.cfg.Proc, "self/mountinfo"), "22 1 254:0 / /home rw - ext4 /dev/mapper/vg-home rw\n")
		}, []string{"holds the file system at /home"}, true},
		{"swap", atNVMe, func(b *hostdevBed) {
			put(b.t, filepath.Join(b.cfg.Proc, "swaps"), "Filename Type\n/dev/nvme0n1p1 partition 1 0 -2\n")
		}, []string{"disk nvme0n1p1 holds swap space"}, true},
		{"virtual functions", igb, func(*hostdevBed) {}, []string{"2 virtual functions, which would go"}, true},
		{"the driver keeps it", e1000e, func(b *hostdevBed) { b.kernel.Fail["e1000e/unbind"] = unix.EBUSY },
			[]string{"Failed to bind PCI device '0000:02:00.0' to driver 'vfio-pci'", "driver e1000e does not give it up"}, false},
		{"vfio-pci does not take it", e1000e, func(b *hostdevBed) { b.kernel.Fail["drivers_probe"] = unix.EINVAL }, []string{"does not take it", "invalid argument"}, false},
		{"group", vf0, func(b *hostdevBed) {
			nic(b, "@ kernel/iommu_groups/3/devices\n"+atNVMe.String()+" -> devices/pci0000:00/0000:00:02.2/0000:03:00.0\n")
		}, []string{"IOMMU group 3 also has 0000:03:00.0 (driver nvme)", "detach --group pci_0000_01_10_0"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newHostdevs(t)
			c.change(b)
			before := b.Driver(c.at)
			err := b.Detach(ctx, c.at, DetachOptions{Strict: true})
			b.refuses(err, c.says...)
			if _, failing := b.kernel.Fail["drivers_probe"]; !failing {
				b.has(c.at, before)
			}
			err = b.Detach(ctx, c.at, DetachOptions{Strict: true, Force: true})
			if (err == nil) != c.forced {
				t.Errorf("by force: %v", err)
			}
		})
	}
}

func TestDetachGroup(t *testing.T) {
	b := newHostdevs(t)
	ctx := context.Background()
	nodedevtest.Build(t, b.cfg.Sys, "@ kernel/iommu_groups/3/devices\n"+e1000e.String()+" -> devices/pci0000:00/0000:00:02.1/0000:02:00.0\n"+
		"0000:00:02.0 -> devices/pci0000:00/0000:00:02.0\n")
	b.ok(b.Detach(ctx, vf0, DetachOptions{Strict: true, Group: true}))
	b.has(vf0, "vfio-pci")
	b.has(e1000e, "vfio-pci")
	b.has(Address{Device: 2}, "pcieport")
	b.ok(b.Reattach(ctx, vf0))
	b.ok(b.Reattach(ctx, e1000e))
	b.kernel.Fail["e1000e/unbind"] = unix.EBUSY // the second: the first goes back
	b.refuses(b.Detach(ctx, vf0, DetachOptions{Group: true}), "e1000e does not give it up")
	b.has(vf0, "igbvf")
}

func TestDetachDriver(t *testing.T) {
	b := newHostdevs(t)
	ctx := context.Background()
	for _, name := range []string{"xen", "kvm", "../x", "e1000e"} {
		b.refuses(b.Detach(ctx, e1000e, DetachOptions{Driver: name}), "unknown driver name '"+name+"'")
	}
	b.ok(b.Detach(ctx, e1000e, DetachOptions{Driver: "vfio"}))
	b.ok(b.Detach(ctx, vf0, DetachOptions{Driver: "mlx5_vfio_pci"}))
	b.has(e1000e, "vfio-pci")
	b.has(vf0, "mlx5_vfio_pci")
}

func TestReset(t *testing.T) {
	b := newHostdevs(t)
	ctx := context.Background()
	b.refuses(b.Reset(ctx, e1000e), "Unable to reset PCI device 0000:02:00.0", "the host's driver e1000e has it")
	b.ok(b.Detach(ctx, e1000e, DetachOptions{}))
	b.kernel.Written()
	b.ok(b.Reset(ctx, e1000e))
	if w := b.kernel.Written(); !slices.ContainsFunc(w, func(s string) bool { return strings.HasSuffix(s, "/reset=1") }) {
		t.Errorf("written: %q", w)
	}
	b.kernel.Fail["/reset"] = unix.ENOTTY
	b.refuses(b.Reset(ctx, e1000e), "no FLR, PM reset or bus reset available")
	b.ok(os.Remove(filepath.Join(b.cfg.Sys, "bus/pci/devices", e1000e.String(), "reset")))
	b.refuses(b.Reset(ctx, e1000e), "no FLR, PM reset or bus reset available")
}

func TestClaim(t *testing.T) {
	ctx := context.Background()
	alice, bob := User{"alice", "uuid-a"}, User{"bob", "uuid-b"}
	vlan := 42
	b := newHostdevs(t)
	b.links.m[0] = FunctionConfig{MAC: "00:00:00:00:00:00", VLAN: new(int)}
	mac := &FunctionConfig{MAC: "52:54:00:00:00:07", VLAN: &vlan}
	b.ok(b.Claim(ctx, alice, []Claim{{Address: vf0, Managed: true, Function: mac}, {Address: atNVMe, Managed: true}}))
	b.has(vf0, "vfio-pci")
	b.has(atNVMe, "vfio-pci")
	if got := b.links.m[0]; got.MAC != mac.MAC || *got.VLAN != 42 {
		t.Errorf("virtual function has %+v", got)
	}
	const used = "PCI device 0000:01:10.0 is in use by driver QEMU, domain alice"
	b.refuses(b.Claim(ctx, bob, []Claim{{Address: vf1, Managed: true}, {Address: vf0, Managed: true}}), used)
	b.has(vf1, "igbvf")
	b.refuses(b.Reattach(ctx, vf0), used)
	b.refuses(b.Detach(ctx, vf0, DetachOptions{Force: true}), used)
	b.refuses(b.Reset(ctx, vf0), "Not resetting active device 0000:01:10.0")

	// virtd is killed; the next one finds alice running, then ended.
	b.open()
	b.Adopt(alice, []Address{vf0, atNVMe})
	b.ok(b.Tidy(ctx, func(id string) bool { return id == alice.UUID }))
	b.refuses(b.Claim(ctx, bob, []Claim{{Address: vf0, Managed: true}}), used)
	b.ok(b.Release(ctx, alice))
	b.has(vf0, "igbvf")
	b.has(atNVMe, "nvme")
	if got := b.links.m[0]; got.MAC != "00:00:00:00:00:00" || *got.VLAN != 0 {
		t.Errorf("virtual function is left with %+v", got)
	}

	// The engine ends while no virtd runs.
	b.ok(b.Claim(ctx, bob, []Claim{{Address: vf0, Managed: true, Function: mac}}))
	b.open()
	b.ok(b.Tidy(ctx, func(string) bool { return false }))
	b.has(vf0, "igbvf")
}

func TestClaimUnmanaged(t *testing.T) {
	ctx := context.Background()
	b := newHostdevs(t)
	alice := User{"alice", "uuid-a"}
	b.refuses(b.Claim(ctx, alice, []Claim{{Address: atNVMe}}), "Unmanaged PCI device 0000:03:00.0 must be manually detached from the host")
	b.ok(b.Detach(ctx, atNVMe, DetachOptions{}))
	b.ok(b.Claim(ctx, alice, []Claim{{Address: atNVMe}}))
	b.ok(b.Release(ctx, alice))
	b.has(atNVMe, "vfio-pci") // who detached it gives it back
	b.ok(b.Claim(ctx, alice, []Claim{{Address: atNVMe, Managed: true}}))
	b.ok(b.Release(ctx, alice))
	b.has(atNVMe, "vfio-pci")
	b.ok(b.Reattach(ctx, atNVMe))
	b.has(atNVMe, "nvme")
}

// A start that fails in the middle leaves the host as it was.
func TestClaimFails(t *testing.T) {
	ctx := context.Background()
	b := newHostdevs(t)
	alice := User{"alice", "uuid-a"}
	b.links.fail = unix.EPERM
	mac := &FunctionConfig{MAC: "52:54:00:00:00:07"}
	b.refuses(b.Claim(ctx, alice, []Claim{{Address: atNVMe, Managed: true}, {Address: vf0, Managed: true, Function: mac}}), "refuses the settings for its virtual function 0")
	b.has(atNVMe, "nvme")
	b.has(vf0, "igbvf")
	if len(b.Users()) != 0 {
		t.Errorf("in use: %v", b.Users())
	}
	b.refuses(b.Claim(ctx, alice, []Claim{{Address: atNVMe, Managed: true}, {Address: atNVMe, Managed: true}}), "twice")
	b.refuses(b.Claim(ctx, alice, []Claim{{Address: e1000e, Managed: true, Function: mac}}), "not a virtual function")
	b.links.fail = nil
	b.refuses(b.Claim(ctx, alice, []Claim{{Address: vf0, Managed: true, Function: &FunctionConfig{MAC: "01:00:5e:00:00:01"}}}), "not the MAC address of one station")
	b.has(vf0, "igbvf")
}
