package vfio

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/lab/labtest"
)

// labCard is the lab's e1000e, which has an IOMMU group of its own.
const labCard = "/sys/bus/pci/devices/0000:02:00.0"

// TestLabDirtyLog: the kernel's container takes the log's requests, and says of a PCI function what it can: that it may have
// written all that it reaches.
func TestLabDirtyLog(t *testing.T) {
	labtest.Need(t, labtest.VFIO, labtest.SRIOV)
	takeLabCard(t)
	group, err := os.Readlink(labCard + "/iommu_group")
	if err != nil {
		t.Fatal(err)
	}
	box, err := NewContainer(openFile(t, "/dev/vfio/vfio"))
	if err != nil {
		t.Fatal(err)
	}
	if told, err := box.iommu.(type1).startDirty(); err == nil { // before there is an IOMMU
		t.Errorf("a container without a group notes writes: %v", told)
	}
	labUnit(t, box, filepath.Join("/dev/vfio", filepath.Base(group)))
}

// TestLabIommufdDirtyLog is the same of iommufd: the emulated IOMMU does not note what devices write.
func TestLabIommufdDirtyLog(t *testing.T) {
	labtest.Need(t, labtest.IOMMUFD, labtest.SRIOV)
	takeLabCard(t)
	entries, err := os.ReadDir(labCard + "/vfio-dev")
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v: %v", entries, err)
	}
	box, err := NewIOMMUFD(openFile(t, "/dev/iommu"))
	if err != nil {
		t.Fatal(err)
	}
	labUnit(t, box, filepath.Join("/dev/vfio/devices", entries[0].Name()))
}

// labUnit puts a unit into a container and takes it out again: its device works, and RAM is mapped for it in between.
func labUnit(t *testing.T, box *Container, path string) {
	t.Helper()
	unit := openFile(t, path)
	if err := box.Add(unit); err != nil {
		t.Fatal(err)
	}
	reach, err := box.Ranges()
	if err != nil || !within(0, 1<<30, reach) || within(0xfee00000, 4096, reach) {
		t.Errorf("%v: the IOMMU reaches %s", err, describe(reach))
	}
	if err := box.MapRAM(mappedRAM(t, 1<<20, 256<<10)); err != nil {
		t.Fatal(err)
	}
	dev, err := box.OpenDevice(unit, "0000:02:00.0")
	if err != nil {
		t.Fatal(err)
	}
	var id [2]byte
	if dev.Read(6, id[:], 0); id != [2]byte{0x86, 0x80} {
		t.Errorf("the device's vendor is %x", id)
	}
	if err := errors.Join(dev.Reset(), box.StartDirtyLog(), box.StartDirtyLog()); err != nil {
		t.Fatal(err)
	}
	var want []int
	for page := range 64 {
		want = append(want, 256-16+page)
	}
	for range 2 {
		if got := dirty(t, box, 16<<12, 1024); !slices.Equal(got, want) {
			t.Errorf("written are %d pages: %v", len(got), got)
		}
	}
	if err := errors.Join(box.StopDirtyLog(), dev.Close(), box.UnmapRAM(), box.Remove(unit), unix.Close(unit), box.Close()); err != nil {
		t.Error(err)
	}
}

// mappedRAM is guest RAM at an address that the kernel can pin.
func mappedRAM(t *testing.T, gpa, size uint64) *memory.Memory {
	t.Helper()
	host, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(host) })
	m, err := memory.FromRegions(memory.Region{GPA: gpa, Size: size, Host: host, File: -1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func openFile(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	return fd
}

// takeLabCard gives the card to vfio-pci, and back to nobody when the test ends: the lab ends with its tests.
func takeLabCard(t *testing.T) {
	t.Helper()
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Base(labCard)
	if _, err := os.Stat(labCard + "/driver"); err == nil {
		write(labCard+"/driver/unbind", name)
	}
	write(labCard+"/driver_override", "vfio-pci")
	write("/sys/bus/pci/drivers_probe", name)
	t.Cleanup(func() {
		write(labCard+"/driver/unbind", name)
		write(labCard+"/driver_override", "\n")
	})
}
