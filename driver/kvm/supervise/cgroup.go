package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups makes a cgroup (version 2) for each engine under one parent directory.
type Cgroups struct {
	root, parent string
	controllers  []string // that engines' cgroups have
}

// wantedControllers are what engines' cgroups should have: to see an out-of-memory kill, to count and to weigh.
var wantedControllers = []string{"cpu", "memory", "pids", "io"}

// OpenCgroups finds the cgroup hierarchy and makes the parent below its root, which is outside of virtd's own cgroup, so
// that stopping virtd's service does not reach engines. It fails where there is no usable hierarchy; engines then run
// without.
func OpenCgroups(name string) (*Cgroups, error) {
	root, err := cgroupRoot("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	c := &Cgroups{root: root, parent: filepath.Join(root, name)}
	if c.controllers, err = c.makeParent(); err != nil {
		return nil, err
	}
	_ = unix.Rmdir(c.parent) // it is there while an engine is, or it was not ours to remove
	return c, nil
}

// makeParent makes the parent, if it is not there, and returns the controllers that cgroups below it get.
func (c *Cgroups) makeParent() (controllers []string, err error) {
	if err := os.MkdirAll(c.parent, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a cgroup for engines: %w", err)
	}
	for _, w := range wantedControllers {
		enable := []byte("+" + w)
		_ = os.WriteFile(filepath.Join(c.root, "cgroup.subtree_control"), enable, 0o644) // others may own the root: then see what there is
		if os.WriteFile(filepath.Join(c.parent, "cgroup.subtree_control"), enable, 0o644) == nil {
			controllers = append(controllers, w)
		}
	}
	return controllers, nil
}

// Missing returns the wanted controllers that this host does not offer.
func (c *Cgroups) Missing() []string {
	var missing []string
	for _, w := range wantedControllers {
		found := false
		for _, have := range c.controllers {
			found = found || have == w
		}
		if !found {
			missing = append(missing, w)
		}
	}
	return missing
}

// cgroupRoot finds where the cgroup2 hierarchy is mounted.
func cgroupRoot(mountinfo string) (string, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		for i, w := range fields {
			if w == "-" && i+1 < len(fields) && fields[i+1] == "cgroup2" && len(fields) > 4 {
				return fields[4], nil
			}
		}
	}
	return "", errors.New("no cgroup2 hierarchy is mounted")
}

// New makes the cgroup of one engine and returns its path and its open directory, to be born in.
func (c *Cgroups) New(name string) (string, *os.File, error) {
	path := filepath.Join(c.parent, name)
	var err error
	for range 10 { // the end of another engine may take the empty parent away in between
		if _, err = c.makeParent(); err != nil {
			return "", nil, err
		}
		if err = os.Mkdir(path, 0o755); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return "", nil, fmt.Errorf("cannot make a cgroup for the engine: %w", err)
	}
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("cannot open the engine's cgroup: %w", err), os.Remove(path))
	}
	return path, dir, nil
}

// List returns the paths of the engines' cgroups.
func (c *Cgroups) List() ([]string, error) {
	entries, err := os.ReadDir(c.parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, filepath.Join(c.parent, e.Name()))
		}
	}
	return list, err
}

// RemoveCgroup removes the cgroup of an engine that has ended, and with the last one the parent. The kernel takes a moment
// to empty it.
func RemoveCgroup(path string) error {
	var err error
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if err = unix.Rmdir(path); err == nil || errors.Is(err, unix.ENOENT) {
			_ = unix.Rmdir(filepath.Dir(path)) // busy while there are others
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("cannot remove cgroup %s: %w", path, err)
}

// OOMKills returns how many processes of a cgroup the kernel killed for want of memory.
func OOMKills(path string) uint64 {
	n, _ := keyed(filepath.Join(path, "memory.events"), "oom_kill")
	return n
}

// CgroupTime returns the processor time of a cgroup: total, user, system.
func CgroupTime(path string) (total, user, system time.Duration, err error) {
	file := filepath.Join(path, "cpu.stat")
	t, err1 := keyed(file, "usage_usec")
	u, err2 := keyed(file, "user_usec")
	s, err3 := keyed(file, "system_usec")
	return time.Duration(t) * time.Microsecond, time.Duration(u) * time.Microsecond, time.Duration(s) * time.Microsecond, errors.Join(err1, err2, err3)
}

// keyed reads one value of a flat keyed file.
func keyed(path, key string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			return strconv.ParseUint(f[1], 10, 63)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}
