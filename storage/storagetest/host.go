package storagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"virtd/storage"
)

// Host is a made-up host. Its zero value is not usable; see New.
type Host struct {
	root string

	mu       sync.Mutex
	mounts   []storage.Mount
	busy     map[string]bool // targets that cannot be unmounted
	programs []string        // command lines that ran
	missing  map[string]bool
	failing  map[string]error
	groups   map[string]*group
}

// New returns a host whose devices are files below root/dev.
func New(root string) *Host {
	return &Host{root: root, busy: map[string]bool{}, missing: map[string]bool{}, failing: map[string]error{}, groups: map[string]*group{}}
}

// Device makes a device of size bytes of zeros and returns its path on the host, /dev/NAME.
func (h *Host) Device(name string, size int64) (string, error) {
	path := "/dev/" + name
	if err := os.MkdirAll(filepath.Dir(h.Path(path)), 0o755); err != nil {
		return "", err
	}
	f, err := os.OpenFile(h.Path(path), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o660)
	if err != nil {
		return "", err
	}
	return path, errors.Join(f.Truncate(size), f.Close())
}

// Path implements storage.Host.
func (h *Host) Path(path string) string {
	if path == "/dev" || strings.HasPrefix(path, "/dev/") {
		return filepath.Join(h.root, path)
	}
	return path
}

// Missing makes a program one that is not installed.
func (h *Host) Missing(program string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.missing[program] = true
}

// Fail makes a program fail from now on; nil makes it work again.
func (h *Host) Fail(program string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failing[program] = err
}

// Busy makes a target one in which somebody has files open, or not.
func (h *Host) Busy(target string, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy[target] = yes
}

// Ran returns the command lines that ran since the last call.
func (h *Host) Ran() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.programs
	h.programs = nil
	return out
}

// Has implements storage.Host.
func (h *Host) Has(program string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.missing[program]
}

// Mount implements storage.Host.
func (h *Host) Mount(m storage.Mount) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if st, err := os.Stat(m.Target); err != nil || !st.IsDir() {
		return unix.ENOTDIR
	}
	if m.Type == "" {
		return unix.ENODEV
	}
	h.mounts = append(h.mounts, m)
	return nil
}

// Unmount implements storage.Host.
func (h *Host) Unmount(target string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[target] {
		return unix.EBUSY
	}
	for i, m := range slices.Backward(h.mounts) {
		if m.Target == target {
			h.mounts = slices.Delete(h.mounts, i, i+1)
			return nil
		}
	}
	return unix.EINVAL
}

// Mounts implements storage.Host.
func (h *Host) Mounts() ([]storage.Mount, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.mounts), nil
}

// Run implements storage.Host.
func (h *Host) Run(_ context.Context, program string, args ...string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.programs = append(h.programs, strings.ReplaceAll(strings.Join(append([]string{program}, args...), " "), h.root, ""))
	if err := h.failing[program]; err != nil {
		return nil, err
	}
	if kind, ok := strings.CutPrefix(program, "mkfs."); ok {
		return nil, format(kind, args[len(args)-1])
	}
	do := programs[program]
	if do == nil || h.missing[program] {
		return nil, storage.MissingProgram(program)
	}
	out, err := do(h, args)
	if err != nil {
		return nil, fmt.Errorf("%s failed: %w", program, err)
	}
	return out, nil
}

// format writes what a file system is known by.
func format(kind, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	switch kind {
	case "xfs":
		_, err = f.WriteAt([]byte("XFSB"), 0)
	case "ext4":
		_, err = f.WriteAt([]byte{0x53, 0xef}, 1024+0x38)
		if err == nil {
			_, err = f.WriteAt([]byte{0x42}, 1024+0x60) // extents and file types
		}
	default:
		err = fmt.Errorf("this host does not imitate mkfs.%s", kind)
	}
	return err
}
