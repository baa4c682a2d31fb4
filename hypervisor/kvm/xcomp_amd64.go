package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// arch_prctl(2) of Linux 5.17 (asm/prctl.h), and the state component that needs it: the tiles' data (Intel SDM 1, 13.1).
const (
	archReqXCompGuestPerm = 0x1025
	xfeatureTileData      = 18
)

// PermitGuestTiles lets the guests of this process have the tiles of AMX, whose state is too large to be everybody's. It
// holds for machines whose first vCPU comes afterwards. It fails where the processor or the kernel has none.
func PermitGuestTiles() error {
	if _, _, errno := unix.Syscall(unix.SYS_ARCH_PRCTL, archReqXCompGuestPerm, xfeatureTileData, 0); errno != 0 {
		return fmt.Errorf("ask the kernel (5.17 or newer) for the state of AMX tiles: %w", errno)
	}
	return nil
}
