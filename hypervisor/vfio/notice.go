package vfio

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Notices are called, by goroutines of the function's, when the kernel has something to say about a device. nil is not called.
type Notices struct {
	// Failed: the device reported an uncorrectable error. What it and its driver do from now on is not to be trusted.
	Failed func()
	// Wanted: somebody on the host wants the device, or removed it, and waits until it is given up. It is repeated every ten
	// seconds.
	Wanted func()
}

// notices listen for the kernel. They end with close.
type notices struct {
	files []*os.File
	wg    sync.WaitGroup
}

// listen lets the device tell of errors and requests, where it can.
func (n *notices) listen(dev Device, to Notices) error {
	for _, s := range []struct {
		notice Notice
		call   func()
	}{{NoticeError, to.Failed}, {NoticeRequest, to.Wanted}} {
		if s.call == nil || !dev.Notifies(s.notice) {
			continue
		}
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return fmt.Errorf("create the eventfd of a notice: %w", err)
		}
		f := os.NewFile(uintptr(fd), "VFIO notice")
		n.files = append(n.files, f)
		if err := dev.SetNotice(s.notice, fd); err != nil {
			return err
		}
		n.wg.Go(func() {
			for count := make([]byte, 8); ; {
				if _, err := f.Read(count); err != nil {
					return
				}
				s.call()
			}
		})
	}
	return nil
}

// close ends the listening. Notices that are being called end first, so they must not wait for the caller.
func (n *notices) close(dev Device) error {
	var errs []error
	for _, notice := range []Notice{NoticeError, NoticeRequest} {
		if len(n.files) > 0 && dev.Notifies(notice) {
			errs = append(errs, dev.SetNotice(notice, -1))
		}
	}
	for _, f := range n.files {
		errs = append(errs, f.Close())
	}
	n.wg.Wait()
	n.files = nil
	return errors.Join(errs...)
}
