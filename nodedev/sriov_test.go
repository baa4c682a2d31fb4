package nodedev

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// withFunctions lets the kernel make virtual functions as igb's are.
func (b *hostdevBed) withFunctions() *hostdevBed {
	b.kernel.VFs = func(_ string, i int) (string, string) {
		return fmt.Sprintf("0000:01:10.%d", 2*i), "iommu_group -> kernel/iommu_groups/3\nvendor 0x8086\ndevice 0x10ca\nuevent PCI_CLASS=20000\nconfig 0e=00"
	}
	return b
}

// withInterfaces lets them have interfaces too.
func (b *hostdevBed) withInterfaces() *hostdevBed {
	made := b.withFunctions().kernel.VFs
	b.kernel.VFs = func(pf string, i int) (string, string) {
		address, text := made(pf, i)
		return address, text + fmt.Sprintf("\nnet/enp1s0v%d/mtu 1500", i)
	}
	return b
}

func (b *hostdevBed) count() int {
	b.t.Helper()
	for _, p := range b.PhysicalFunctions() {
		if p.Address == igb {
			return len(p.Functions)
		}
	}
	b.t.Fatal("the card is not listed")
	return 0
}

func TestFunctionCount(t *testing.T) {
	b := newHostdevs(t).withFunctions()
	ctx := context.Background()
	b.ok(b.SetFunctionCount(ctx, igb, 3, CountOptions{}))
	if n := b.count(); n != 3 {
		t.Fatalf("%d virtual functions, want 3", n)
	}
	b.refuses(b.SetFunctionCount(ctx, igb, 8, CountOptions{}), "can have 0 to 7 virtual functions, not 8")
	b.refuses(b.SetFunctionCount(ctx, e1000e, 1, CountOptions{}), "has no SR-IOV")
	b.ok(b.Claim(ctx, User{"alice", "a"}, []Claim{{Address: vf1, Managed: true}}))
	b.refuses(b.SetFunctionCount(ctx, igb, 0, CountOptions{}), "0000:01:10.2 is in use by driver QEMU, domain alice")
	b.ok(b.Release(ctx, User{"alice", "a"}))
	b.ok(b.Detach(ctx, vf0, DetachOptions{}))
	b.refuses(b.SetFunctionCount(ctx, igb, 0, CountOptions{}), "is detached")
	b.ok(b.Reattach(ctx, vf0))
	b.kernel.Fail["0000:01:00.0/sriov_numvfs"] = unix.ENOMEM
	b.refuses(b.SetFunctionCount(ctx, igb, 5, CountOptions{}), "cannot make 5 virtual functions", "cannot allocate memory")
	delete(b.kernel.Fail, "0000:01:00.0/sriov_numvfs")
	if n := b.count(); n != 3 {
		t.Errorf("%d virtual functions after a failure, want the 3 of before", n)
	}
	b.ok(b.SetFunctionCount(ctx, igb, 0, CountOptions{}))
	if n := b.count(); n != 0 {
		t.Errorf("%d virtual functions, want none", n)
	}
}

// Another program sets the number while virtd does: what it made stays.
func TestFunctionCountChangesUnderUs(t *testing.T) {
	b := newHostdevs(t).withFunctions()
	file := b.cfg.Sys + "/bus/pci/devices/" + igb.String() + "/sriov_numvfs"
	b.kernel.Before = func(_, value string) {
		if value == "4" {
			b.ok(b.kernel.Write(file, "3"))
		}
	}
	b.refuses(b.SetFunctionCount(context.Background(), igb, 4, CountOptions{Keep: true}), "cannot make 4 virtual functions of PCI device 0000:01:00.0",
		"another program changed their number to 3 meanwhile", "try again")
	if n := b.count(); n != 3 {
		t.Errorf("%d virtual functions, want the 3 of the other program", n)
	}
	b.kernel.Before = nil
	b.ok(b.SetFunctionCount(context.Background(), igb, 4, CountOptions{}))
}

// New functions get their drivers and interfaces, also from a driver that comes too early, unless the card's are to have none.
func TestFunctionsGetDrivers(t *testing.T) {
	ctx := context.Background()
	b := newHostdevs(t).withInterfaces()
	b.kernel.Tries[vf1.String()] = 2 // as igbvf of Linux 6.1
	probing := func(value string) {
		put(t, filepath.Join(b.cfg.Sys, "bus/pci/devices", igb.String(), autoprobe), value+"\n")
	}
	probing("1")
	b.ok(b.SetFunctionCount(ctx, igb, 1, CountOptions{}))
	b.has(vf0, "igbvf")
	b.ok(b.SetFunctionCount(ctx, igb, 2, CountOptions{}))
	b.has(vf1, "igbvf")
	probing("0")
	b.ok(b.SetFunctionCount(ctx, igb, 1, CountOptions{}))
	b.has(vf0, "")
}

// Functions for guests get no driver of the host, also after a boot; what others make of the card does.
func TestDriverlessFunctions(t *testing.T) {
	ctx := context.Background()
	b := newHostdevs(t).withInterfaces()
	dev := filepath.Join(b.cfg.Sys, "bus/pci/devices", igb.String())
	put(t, filepath.Join(dev, autoprobe), "1\n")
	free := func() {
		t.Helper()
		b.has(vf0, "")
		if now, _ := b.number("bus/pci/devices/"+igb.String(), autoprobe, 10); now != 1 {
			t.Errorf("%s is left at %d", autoprobe, now)
		}
	}
	b.ok(b.SetFunctionCount(ctx, igb, 1, CountOptions{Keep: true, Driverless: true}))
	free()
	b.ok(b.Claim(ctx, User{"alice", "a"}, []Claim{{Address: vf0, Managed: true}}))
	b.has(vf0, "vfio-pci")
	b.ok(b.Release(ctx, User{"alice", "a"}))
	free()
	b.ok(b.kernel.Write(filepath.Join(dev, "sriov_numvfs"), "0"))
	b.boot("boot-2")
	b.RestoreFunctions(ctx)
	free()
	b.ok(b.SetFunctionCount(ctx, igb, 0, CountOptions{}))
	b.ok(b.SetFunctionCount(ctx, igb, 1, CountOptions{}))
	b.has(vf0, "igbvf")
	b.kernel.Before = func(_, value string) { // two are too many
		if delete(b.kernel.Fail, "0000:01:00.0/sriov_numvfs"); value == "2" {
			b.kernel.Fail["0000:01:00.0/sriov_numvfs"] = unix.ENOMEM
		}
	}
	b.refuses(b.SetFunctionCount(ctx, igb, 2, CountOptions{Driverless: true}), "cannot allocate memory")
	b.has(vf0, "igbvf")
	b.ok(b.SetFunctionCount(ctx, igb, 1, CountOptions{Driverless: true})) // the same number, and made anew
	free()
}

// What a card refuses changes nothing, and the error says whose settings, which driver and what helps.
func TestConfigureFunction(t *testing.T) {
	b := newHostdevs(t)
	vlan, was := 42, 7
	b.links.m[1] = FunctionConfig{MAC: "52:54:00:00:00:01", VLAN: &was}
	b.ok(b.ConfigureFunction(vf1, FunctionConfig{VLAN: &vlan}))
	if got := b.links.m[1]; *got.VLAN != 42 || got.MAC != "52:54:00:00:00:01" {
		t.Errorf("the function has %+v", got)
	}
	for failure, remedy := range map[error]string{unix.EPERM: "operation not permitted; the kernel's log may say why (dmesg)",
		unix.EOPNOTSUPP: "operation not supported; the driver has no such setting"} {
		b.links.fail, b.links.half = failure, true
		b.refuses(b.ConfigureFunction(vf1, FunctionConfig{MAC: "52:54:00:00:00:02", VLAN: &was}),
			"interface enp1s0 (driver igb) refuses the settings for its virtual function 1 (0000:01:10.2): ", remedy)
		if got := b.links.m[1]; *got.VLAN != 42 || got.MAC != "52:54:00:00:00:01" {
			t.Errorf("after %v the function has %+v", failure, got)
		}
	}
	b.refuses(b.ConfigureFunction(vf1, FunctionConfig{MAC: "01:00:5e:00:00:01"}), "is not the MAC address of one station")
	b.refuses(b.ConfigureFunction(e1000e, FunctionConfig{VLAN: &vlan}), "PCI device 0000:02:00.0 is not a virtual function")
	b.refuses(b.ConfigureFunction(Address{Bus: 9}, FunctionConfig{}), "Device 0000:09:00.0 not found")
}

func TestFunctionsAfterBoot(t *testing.T) {
	b := newHostdevs(t).withFunctions()
	ctx := context.Background()
	b.ok(b.SetFunctionCount(ctx, igb, 2, CountOptions{Keep: true}))
	b.ok(b.kernel.Write(b.cfg.Sys+"/bus/pci/devices/"+igb.String()+"/sriov_numvfs", "0"))
	b.open()
	b.RestoreFunctions(ctx)
	if n := b.count(); n != 0 {
		t.Errorf("%d virtual functions after a restart of virtd; an administrator removed them", n)
	}
	b.boot("boot-2")
	b.RestoreFunctions(ctx)
	if n := b.count(); n != 2 {
		t.Errorf("%d virtual functions after a boot, want 2", n)
	}
	b.ok(b.SetFunctionCount(ctx, igb, 0, CountOptions{}))
	b.boot("boot-3")
	b.RestoreFunctions(ctx)
	if n := b.count(); n != 0 {
		t.Errorf("%d virtual functions after they were removed for good", n)
	}
}

func TestFindFunction(t *testing.T) {
	b := newHostdevs(t)
	for _, name := range []string{"0000:01:00.0", "01:00.0", "pci_0000_01_00_0"} {
		if a, err := b.FindFunction(name); err != nil || a != igb {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
	for _, name := range []string{"", "../x", "eth99", "pci_1_2", "lo"} {
		if a, err := b.FindFunction(name); err == nil {
			t.Errorf("%q is %v", name, a)
		}
	}
}

// A pool looks for the functions of a card and for one that nobody has.
func TestClaimable(t *testing.T) {
	b := newHostdevs(t)
	name := b.netOf("bus/pci/devices/" + igb.String())
	list, err := b.VirtualFunctions(name)
	b.ok(err)
	if !slices.Equal(list, []Address{vf0, vf1}) {
		t.Errorf("functions of %s: %v", name, list)
	}
	_, err = b.VirtualFunctions("nosuch0")
	b.refuses(err, "the host has no PCI card with the interface 'nosuch0'")
	_, err = b.VirtualFunctions("../net")
	b.refuses(err, "the host has no PCI card")
	_, err = b.VirtualFunctions(b.netOf("bus/pci/devices/" + e1000e.String()))
	b.refuses(err, "has no SR-IOV")

	ctx, user := context.Background(), User{Name: "demo", UUID: "u"}
	b.ok(b.Claimable(vf0, true))
	b.refuses(b.Claimable(vf0, false), "Unmanaged PCI device 0000:01:10.0 must be manually detached from the host")
	b.refuses(b.Claimable(e1000e, true), "is not a virtual function")
	b.refuses(b.Claimable(Address{Bus: 9}, true), "not found")
	b.ok(b.Claim(ctx, user, []Claim{{Address: vf0, Managed: true, Function: &FunctionConfig{MAC: "52:54:00:00:00:01"}}}))
	b.refuses(b.Claimable(vf0, true), "in use by driver QEMU, domain demo")
	b.ok(b.Release(ctx, user))
	b.ok(b.Claimable(vf0, true))
}
