package nodedev

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"virtd/virterr"
)

// HostdevsConfig is what Hostdevs work on.
type HostdevsConfig struct {
	Sys   string // "": /sys
	Proc  string // "": /proc
	Dev   string // "": /dev
	State string // folder for what must survive virtd and the host's boots
	Log   *slog.Logger

	// Write writes an attribute of sysfs, nil: the file. Tests put a kernel of their own here.
	Write func(file, value string) error
	// Modprobe loads a kernel module; nil runs modprobe.
	Modprobe func(ctx context.Context, module string) error
	// Functions sets what a physical function does for its virtual ones; nil: by netlink.
	Functions FunctionLinks
}

// Hostdevs take PCI functions from their drivers and give them back, for an administrator or for a domain. They remember on
// disk which driver a function had, and in memory which domain has it. Safe for concurrent use: one change at a time.
type Hostdevs struct {
	*sysfs
	proc, dev string
	log       *slog.Logger
	write     func(file, value string) error
	modprobe  func(ctx context.Context, module string) error
	links     FunctionLinks
	state     string
	boot      string // this boot's id

	mu       sync.Mutex
	detached map[Address]detached
	users    map[Address]User
}

// User is a domain that has functions of the host.
type User struct{ Name, UUID string }

// OpenHostdevs reads what earlier processes did. Records that no longer tell the truth are dropped.
func OpenHostdevs(cfg HostdevsConfig) (*Hostdevs, error) {
	for to, def := range map[*string]string{&cfg.Sys: "/sys", &cfg.Proc: "/proc", &cfg.Dev: "/dev"} {
		if *to == "" {
			*to = def
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Write == nil {
		cfg.Write = writeAttribute
	}
	if cfg.Modprobe == nil {
		cfg.Modprobe = modprobe
	}
	if cfg.Functions == nil {
		cfg.Functions = netlinkFunctions{}
	}
	sys, err := openSysfs(cfg.Sys, "")
	if err != nil {
		return nil, fmt.Errorf("look for the host's devices in %s (is it mounted?): %w", cfg.Sys, err)
	}
	h := &Hostdevs{sysfs: sys, proc: cfg.Proc, dev: cfg.Dev, log: cfg.Log, write: cfg.Write, modprobe: cfg.Modprobe, links: cfg.Functions,
		state: cfg.State, detached: map[Address]detached{}, users: map[Address]User{}}
	h.boot = bootID(cfg.Proc)
	return h, h.load()
}

// bootID tells this boot of the host from others; "" where the kernel does not.
func bootID(proc string) string {
	id, err := os.ReadFile(filepath.Join(proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// writeAttribute writes to a file of sysfs, which must exist: the kernel takes each write as one command.
func writeAttribute(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func modprobe(ctx context.Context, module string) error {
	for _, program := range []string{"/sbin/modprobe", "/usr/sbin/modprobe", "modprobe"} {
		path, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		if out, err := exec.CommandContext(ctx, path, module).CombinedOutput(); err != nil {
			return fmt.Errorf("modprobe %s: %w: %s", module, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	return fmt.Errorf("modprobe is not installed (package kmod)")
}

// pciPath is where a function is, below the root with links resolved.
func (h *Hostdevs) pciPath(a Address) (string, error) {
	dev, err := h.resolve("bus/pci/devices/" + a.String())
	if err != nil {
		return "", virterr.NewFrom(virterr.FromNone, virterr.SystemError, "Device %s not found: could not access %s: %w",
			a, filepath.Join(h.root, "bus/pci/devices", a.String(), "config"), os.ErrNotExist)
	}
	return dev, nil
}

// Driver is the driver that a function has now, or "".
func (h *Hostdevs) Driver(a Address) string { return h.link("bus/pci/devices/"+a.String(), "driver") }

// Users returns which domain has which function.
func (h *Hostdevs) Users() map[Address]User {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[Address]User, len(h.users))
	for a, u := range h.users {
		out[a] = u
	}
	return out
}

// free refuses a function that a domain has. The caller holds mu.
func (h *Hostdevs) free(a Address) error {
	if u, ok := h.users[a]; ok {
		return virterr.New(virterr.OperationInvalid, "PCI device %s is in use by driver QEMU, domain %s", a, u.Name)
	}
	return nil
}
