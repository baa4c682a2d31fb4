package kvm_test

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// lockedThreadAs gives the calling goroutine a thread of its own that opens files as uid, and that ends with it.
func lockedThreadAs(uid int) {
	runtime.LockOSThread()
	if err := unix.Setfsuid(uid); err != nil {
		panic(err)
	}
}
