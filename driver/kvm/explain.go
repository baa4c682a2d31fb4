package kvm

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// openError says why a file of a domain could not be opened, and what to change.
func openError(what, path string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		hint = deniedHint(path)
	case errors.Is(err, unix.ENOENT):
		hint = missingHint(path)
	case errors.Is(err, unix.EROFS):
		hint = " (use <readonly/>)"
	case errors.Is(err, unix.ELOOP):
		hint = " (symbolic links go in a circle)"
	}
	return virterr.New(virterr.SystemError, "Cannot access %s '%s' (as uid:%d, gid:%d): %w%s",
		what, path, os.Geteuid(), os.Getegid(), virterr.Strerror(err), hint)
}

// deniedHint names the first directory on the way that we may not pass, else the file's own mode.
func deniedHint(path string) string {
	for _, dir := range parents(path) {
		if unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS) != nil {
			return fmt.Sprintf(" (uid %d has no search permission (x) on directory '%s'%s)", os.Geteuid(), dir, modeOf(dir))
		}
	}
	return fmt.Sprintf(" (uid %d may not open the file itself%s)", os.Geteuid(), modeOf(path))
}

// missingHint names the first directory on the way that does not exist.
func missingHint(path string) string {
	for _, dir := range parents(path) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return fmt.Sprintf(" (directory '%s' does not exist)", dir)
		}
	}
	return ""
}

// parents returns the directories above an absolute path, from the root down.
func parents(path string) []string {
	var list []string
	for dir := filepath.Dir(filepath.Clean(path)); ; dir = filepath.Dir(dir) {
		list = append([]string{dir}, list...)
		if dir == "/" || dir == "." {
			return list
		}
	}
}

// modeOf describes a file's mode and owner, if they can be seen.
func modeOf(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf(", mode %04o of uid %d, gid %d", st.Mode&0o7777, st.Uid, st.Gid)
}

// kvmError says why /dev/kvm could not be opened.
func kvmError(path string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = ": load module kvm_intel or kvm_amd, and switch on virtualization (VT-x, AMD-V) in the firmware or the outer hypervisor"
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		hint = ": the kernel's KVM found no processor support; switch on virtualization in the firmware"
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		hint = fmt.Sprintf(" (uid %d%s): %s", os.Geteuid(), modeOf(path), kvmAdvice(path))
	}
	return virterr.New(virterr.SystemError, "Could not access KVM kernel module '%s': %w%s", path, virterr.Strerror(err), hint)
}

// kvmAdvice says how a user gets to use /dev/kvm.
func kvmAdvice(path string) string {
	const readWrite = 0o060 // for the group
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && st.Mode&readWrite != readWrite {
		return "its group may not use it either; as root: chgrp kvm " + path + " && chmod 0660 " + path + ", and add the user to group 'kvm'"
	}
	return "add the user to group " + groupOf(path) + " and log in again"
}

func groupOf(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return "kvm"
	}
	if g, err := user.LookupGroupId(strconv.Itoa(int(st.Gid))); err == nil {
		return "'" + g.Name + "'"
	}
	return strconv.Itoa(int(st.Gid))
}
