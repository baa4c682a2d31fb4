package labtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Feature is something of the host that a test needs, with the probe that finds it.
type Feature struct {
	name  string
	probe func() error
}

// The features a test can ask for.
var (
	// KVM is a /dev/kvm that can be opened and boots Linux guests.
	KVM = Feature{"kvm", device("/dev/kvm")}
	// VhostNet is the kernel's virtio-net back end.
	VhostNet = Feature{"vhost-net", device("/dev/vhost-net")}
	// Tun makes taps.
	Tun = Feature{"tun", device("/dev/net/tun")}
	// VFIO is the container device of VFIO; groups appear when functions are bound.
	VFIO = Feature{"vfio", device("/dev/vfio/vfio")}
	// IOMMUFD is iommufd, which LAB_IOMMUFD=1 brings: Debian's kernels are built without.
	IOMMUFD = Feature{"iommufd (start the lab with LAB_KERNEL=6.12 LAB_IOMMUFD=1)", device("/dev/iommu")}
	// SRIOV is the igb function of the lab, 0000:01:00.0, that can make virtual functions.
	SRIOV = Feature{"sriov", exists("/sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs")}
	// HugePages is a pool of at least one free 2 MiB page (LAB_HUGE).
	HugePages = Feature{"hugepages", hugePages}
	// CgroupV2 is the unified hierarchy, writable.
	CgroupV2 = Feature{"cgroup2", exists("/sys/fs/cgroup/cgroup.subtree_control")}
	// Clients is the tree of clients below [ClientsRoot], which LAB_CLIENTS=1 brings.
	Clients = Feature{"clients of libvirt (start the lab with LAB_CLIENTS=1)", exists(ClientsRoot + "/usr/bin")}
	// Virsh is libvirt's own client.
	Virsh = Feature{"virsh", program("virsh")}
	// QEMU is the peer that benchmarks and compatibility tests compare with.
	QEMU = Feature{"qemu", program("qemu-system-x86_64")}
)

// ClientsRoot is a Debian root that holds virt-manager with a display for it, libvirt-dbus and the Prometheus exporter. It
// is read-only.
const ClientsRoot = "/opt/clients"

// Program is the feature that a program is in PATH.
func Program(name string) Feature { return Feature{name, program(name)} }

// Inside says whether this process runs in the lab.
func Inside() bool { return os.Getenv("VIRTD_LAB") == "1" }

// Need skips the test outside the lab. In the lab it fails the test when a feature is missing, saying which.
func Need(t testing.TB, features ...Feature) {
	t.Helper()
	if !Inside() {
		t.Skip("needs the lab: run it with lab/test.sh")
	}
	for _, f := range features {
		if err := f.probe(); err != nil {
			t.Fatalf("the lab lacks %s: %v", f.name, err)
		}
	}
}

// Binary returns the path of one of the project's programs (virtd, vctl, virtd-vmm), built with the tests. It
// fails the test when the program was not built.
func Binary(t testing.TB, name string) string {
	t.Helper()
	p := filepath.Join(os.Getenv("VIRTD_LAB_BIN"), name)
	if os.Getenv("VIRTD_LAB_BIN") == "" {
		t.Fatal("VIRTD_LAB_BIN is not set: run the test with lab/test.sh")
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("program %s: %v", name, err)
	}
	return p
}

// Libvirtd returns the folder with Debian's libvirtd and its driver of devices, which test.sh provides for tests that call
// this: a root folder to be changed into, whose etc, run and var are empty and read-only.
func Libvirtd(t testing.TB) string {
	t.Helper()
	root := os.Getenv("VIRTD_LAB_LIBVIRTD")
	if _, err := os.Stat(filepath.Join(root, "usr/sbin/libvirtd")); root == "" || err != nil {
		t.Fatalf("libvirtd is not in %q: %v; run the test with lab/test.sh", root, err)
	}
	return root
}

func device(name string) func() error {
	return func() error {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

func exists(name string) func() error {
	return func() error {
		_, err := os.Stat(name)
		return err
	}
}

func program(name string) func() error {
	return func() error {
		_, err := exec.LookPath(name)
		return err
	}
}

func hugePages() error {
	b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
	if err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		return err
	}
	if n == 0 {
		return errors.New("no free 2 MiB page; start the lab with LAB_HUGE=N")
	}
	return nil
}
