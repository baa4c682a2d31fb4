package kvm

import (
	"time"

	"golang.org/x/sys/unix"
)

// SetVhostUserWait says how long the process that serves a device has to be there, until the returned function is called.
func SetVhostUserWait(d time.Duration) (undo func()) {
	before := vhostUserWait
	vhostUserWait = d
	return func() { vhostUserWait = before }
}

// OpenKernelForTest opens a kernel as a start does.
func OpenKernelForTest(path string) error {
	f, err := openRegular("kernel", path, unix.O_RDONLY)
	if err == nil {
		f.Close()
	}
	return err
}

// OpenROMForTest opens a file with an expansion ROM as a start does.
func OpenROMForTest(path string) error {
	f, err := openROM(path)
	if err == nil {
		f.Close()
	}
	return err
}
