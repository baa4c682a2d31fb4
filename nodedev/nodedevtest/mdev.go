package nodedevtest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mdevGroups is where the numbers of mediated devices' IOMMU groups begin.
const mdevGroups = 100

// createMdev makes a mediated device of the type in a folder, as the kernel does: it tells of it, binds it to a driver, and
// tells again.
func (k *Kernel) createMdev(kind, id string) error {
	bus := filepath.Join(k.Root, "bus/mdev/devices")
	if _, err := os.Lstat(filepath.Join(bus, id)); err == nil {
		return unix.EEXIST
	}
	if err := k.available(kind, -1); err != nil {
		return err
	}
	rel, err := filepath.Rel(k.Root, kind)
	if err != nil {
		return err
	}
	at := path.Join(path.Dir(path.Dir(rel)), id)
	if err := build(k.Root, fmt.Sprintf("@ %s\nsubsystem -> bus/mdev\nuevent MODALIAS=mdev:\n%s\nremove\n", at, k.MdevAttrs)); err != nil {
		return err
	}
	k.tell("add", at)
	others, err := os.ReadDir(bus)
	if err != nil {
		return err
	}
	group := mdevGroups + len(others)
	err = build(k.Root, fmt.Sprintf("@ %s\nuevent DRIVER=vfio_mdev\nmdev_type -> %s\niommu_group -> kernel/iommu_groups/%d\n", at, rel, group))
	k.tell("bind", at)
	return err
}

// removeMdev removes the mediated device in a folder.
func (k *Kernel) removeMdev(dev string) error {
	kind, err := filepath.EvalSymlinks(filepath.Join(dev, "mdev_type"))
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(k.Root, dev)
	if err != nil {
		return err
	}
	err = errors.Join(os.RemoveAll(dev), os.Remove(filepath.Join(k.Root, "bus/mdev/devices", filepath.Base(dev))), k.available(kind, 1))
	k.tell("remove", rel)
	return err
}

// available changes how many devices of a type can be made.
func (k *Kernel) available(kind string, by int) error {
	file := filepath.Join(kind, "available_instances")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n+by < 0 {
		return unix.EUSERS
	}
	return os.WriteFile(file, []byte(strconv.Itoa(n+by)+"\n"), 0o644)
}

func (k *Kernel) tell(action, path string) {
	if k.Events != nil {
		k.Events(action, path)
	}
}
