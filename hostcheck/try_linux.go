package hostcheck

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func openDevice(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	return unix.Close(fd)
}

func fileGroup(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Gid == 0 {
		return ""
	}
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(st.Gid), 10))
	if err != nil {
		return ""
	}
	return g.Name
}

// tryFeature makes the smallest call that tells whether the kernel has a feature and lets us use it.
func tryFeature(name string) error {
	switch name {
	case "io_uring":
		// A null parameter block is EFAULT where the call is allowed, EPERM where it is disabled.
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
		if errno != unix.EFAULT && errno != unix.EINVAL {
			return fmt.Errorf("io_uring_setup: %w", errno)
		}
	case "landlock":
		const createRulesetVersion = 1 // LANDLOCK_CREATE_RULESET_VERSION
		if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, createRulesetVersion); errno != 0 {
			return fmt.Errorf("landlock_create_ruleset: %w", errno)
		}
	case "seccomp":
		if _, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("prctl(PR_GET_SECCOMP): %w", err)
		}
	default:
		return fmt.Errorf("no check for feature %q", name)
	}
	return nil
}
