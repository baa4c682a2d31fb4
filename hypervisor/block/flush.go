package block

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Sync makes what was written durable, as a guest's flush does, also for an image that ignores guests' flushes. No
// request may be in flight.
func (img *Image) Sync() error {
	if img.opts.ReadOnly {
		return nil
	}
	if img.format != nil {
		if err := img.format.q.Flush(); err != nil { // tables that are only in memory
			return fmt.Errorf("flush the image: %w", err)
		}
	}
	if errno := retry(func() error { return unix.Fdatasync(img.fd) }); errno != 0 {
		return fmt.Errorf("flush the image: %w", errno)
	}
	return nil
}
