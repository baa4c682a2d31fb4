package nodedevtest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Kernel plays the kernel's part when a tree made by Build is written to: it moves functions from driver to driver and makes
// virtual functions. Write is for nodedev.HostdevsConfig. The fields are set before the first Write.
type Kernel struct {
	Root   string
	Native map[string]string // the driver that takes a function by itself, by address
	Fail   map[string]error  // what writing fails with, by the end of the file's path ("0000:01:00.0/reset", "igb/unbind")
	Tries  map[string]int    // how often a driver fails to take a function before it does, by address
	VFs    func(pf string, i int) (address, description string)
	// MdevAttrs are the attributes of mediated devices, as Build takes them.
	MdevAttrs string
	Events    func(action, path string) // told of mediated devices that come and go; nil: nobody listens
	Before    func(file, value string)  // called before each write, and may write: another program that is faster

	mu      sync.Mutex
	written []string
}

// Written returns what was written so far, as "path=value" below the root, and forgets it.
func (k *Kernel) Written() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.written
	k.written = nil
	return out
}

// Write is one write to a file of sysfs.
func (k *Kernel) Write(file, value string) error {
	if k.Before != nil {
		k.Before(file, value)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	rel, err := filepath.Rel(k.Root, file)
	if err != nil {
		return err
	}
	value = strings.TrimSpace(value)
	k.written = append(k.written, rel+"="+value)
	dev := filepath.Dir(file)
	real, err := filepath.EvalSymlinks(dev) // as in a driver's folder
	if err != nil {
		return err
	}
	for end, failure := range k.Fail {
		if strings.HasSuffix(file, end) || strings.HasSuffix(filepath.Join(real, filepath.Base(file)), end) {
			return &os.PathError{Op: "write", Path: file, Err: failure}
		}
	}
	switch path.Base(file) {
	case "unbind":
		return errors.Join(os.Remove(filepath.Join(k.Root, "bus/pci/devices", value, "driver")), k.uevent(value, ""))
	case "drivers_probe":
		return k.probe(value)
	case "sriov_numvfs":
		return k.functions(real, value)
	case "create":
		return k.createMdev(real, value)
	case "remove":
		return k.removeMdev(real)
	}
	if _, err := os.Lstat(filepath.Join(real, "mdev_type")); err == nil { // its driver has some attributes, not any
		if _, err := os.Stat(file); err != nil {
			return err
		}
	}
	return os.WriteFile(file, []byte(value+"\n"), 0o644)
}

// probe gives a function the driver that its driver_override says, or its own.
func (k *Kernel) probe(address string) error {
	dev := filepath.Join(k.Root, "bus/pci/devices", address)
	if _, err := os.Lstat(filepath.Join(dev, "driver")); err == nil {
		return nil
	}
	driver := k.Native[address]
	if text, err := os.ReadFile(filepath.Join(dev, "driver_override")); err == nil && strings.TrimSpace(string(text)) != "" {
		driver = strings.TrimSpace(string(text))
	}
	if driver == "" {
		return nil
	}
	if k.Tries[address] > 0 {
		k.Tries[address]--
		return unix.EINVAL
	}
	at, err := filepath.EvalSymlinks(dev)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(k.Root, "bus/pci/drivers", driver)); err != nil {
		return nil // no such driver is loaded
	}
	rel, err := filepath.Rel(k.Root, at)
	if err != nil {
		return err
	}
	return errors.Join(link(k.Root, rel+"/driver", "bus/pci/drivers/"+driver), k.uevent(address, driver))
}

// uevent brings a function's uevent file in step with its driver.
func (k *Kernel) uevent(address, driver string) error {
	file := filepath.Join(k.Root, "bus/pci/devices", address, "uevent")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var lines []string
	if driver != "" {
		lines = append(lines, "DRIVER="+driver)
	}
	for _, l := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if !strings.HasPrefix(l, "DRIVER=") {
			lines = append(lines, l)
		}
	}
	return os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// functions makes and removes virtual functions: from none to some, or to none, as the kernel does.
func (k *Kernel) functions(pf, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return unix.EINVAL
	}
	total, _ := os.ReadFile(filepath.Join(pf, "sriov_totalvfs"))
	if most, _ := strconv.Atoi(strings.TrimSpace(string(total))); n > most {
		return unix.ERANGE
	}
	old, _ := filepath.Glob(filepath.Join(pf, "virtfn*"))
	if n > 0 && len(old) > 0 {
		return unix.EBUSY
	}
	for _, l := range old {
		if at, err := filepath.EvalSymlinks(l); err == nil {
			err = errors.Join(os.RemoveAll(at), os.Remove(filepath.Join(k.Root, "bus/pci/devices", filepath.Base(at))))
			if err != nil {
				return err
			}
		}
		if err := os.Remove(l); err != nil {
			return err
		}
	}
	rel, err := filepath.Rel(k.Root, pf)
	if err != nil {
		return err
	}
	for i := range n {
		address, description := k.VFs(filepath.Base(pf), i)
		at := path.Join(path.Dir(rel), address)
		text := fmt.Sprintf("@ %s\nsubsystem -> bus/pci\nphysfn -> %s\n%s\n@ %s\nvirtfn%d -> %s\n", at, rel, description, rel, i, at)
		if err := build(k.Root, text); err != nil {
			return err
		}
		if probing, err := os.ReadFile(filepath.Join(pf, "sriov_drivers_autoprobe")); err == nil && strings.TrimSpace(string(probing)) == "1" {
			_ = k.probe(address) // a driver that fails leaves it without one
		}
	}
	return os.WriteFile(filepath.Join(pf, "sriov_numvfs"), []byte(value+"\n"), 0o644)
}
