package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Host is what pools do to the host beyond opening files. Its methods are safe for concurrent use. Local is the real one;
// package storagetest has one for tests.
type Host interface {
	// Run runs a program, without a shell, and returns what it printed. An error of a program that ended badly says what it
	// said last.
	Run(ctx context.Context, program string, args ...string) ([]byte, error)
	// Has reports whether a program is installed.
	Has(program string) bool
	// Mount mounts a block device, or an image file through a loop device that goes with the mount.
	Mount(m Mount) error
	// Unmount undoes the last mount at a directory.
	Unmount(target string) error
	// Mounts returns what is mounted, in the order in which it was.
	Mounts() ([]Mount, error)
	// Path is where a path below /dev is for the calling process. Only a test's host has it elsewhere.
	Path(path string) string
}

// Mount is a mounted file system.
type Mount struct {
	Source string // block device, or image file behind a loop device
	Target string
	Type   string  // ext4
	Flags  uintptr // of mount(2); not told by Mounts
	Data   string  // the file system's own options; not told by Mounts
	Device uint64  // of the file system, as stat(2) gives it; not used by Mount
}

// Local is the host that virtd runs on.
type Local struct{}

// Path implements Host.
func (Local) Path(path string) string { return path }

// Mount implements Host.
func (Local) Mount(m Mount) error {
	source := m.Source
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() {
		loop, err := attachLoop(source, m.Flags&unix.MS_RDONLY != 0)
		if err != nil {
			return err
		}
		defer loop.Close() // detaches it, unless the mount holds it
		source = loop.Name()
	}
	return unix.Mount(source, m.Target, m.Type, m.Flags, m.Data)
}

// Unmount implements Host.
func (Local) Unmount(target string) error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) }

// Mounts implements Host.
func (Local) Mounts() ([]Mount, error) {
	list, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read /proc/self/mountinfo: %w", err)
	}
	out := make([]Mount, 0, len(list))
	for _, m := range list {
		mount := Mount{Source: m.Source, Target: m.Mountpoint, Type: m.FSType, Device: unix.Mkdev(uint32(m.Major), uint32(m.Minor))}
		if image, ok := loopImage(m.Source); ok {
			mount.Source = image
		}
		out = append(out, mount)
	}
	return out, nil
}

// loopImage returns the file behind a loop device.
func loopImage(device string) (string, bool) {
	if !strings.HasPrefix(device, "/dev/loop") {
		return "", false
	}
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file"))
	return strings.TrimSpace(string(text)), err == nil
}

// attachLoop gives an image file a loop device, which goes when nobody has it open or mounted any more.
func attachLoop(path string, readOnly bool) (*os.File, error) {
	flags, loopFlags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR)
	if readOnly {
		flags, loopFlags = os.O_RDONLY, loopFlags|unix.LO_FLAGS_READ_ONLY
	}
	image, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("an image file needs a loop device (modprobe loop): %w", err)
	}
	defer control.Close()
	for end := time.Now().Add(5 * time.Second); ; {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("get a free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), flags, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: loopFlags}}
		copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) { // busy: somebody else got it between the two calls
			return nil, fmt.Errorf("attach %s: %w", loop.Name(), err)
		}
	}
}
