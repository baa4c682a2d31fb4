package kvm

import "golang.org/x/sys/unix"

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
