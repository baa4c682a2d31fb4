package kvm

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// openPTY allocates a pseudoterminal in raw mode and returns its master and the path of its other side.
func openPTY() (*os.File, string, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", virterr.New(virterr.SystemError, "cannot allocate a pseudoterminal: open /dev/ptmx: %w", err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := setUpPTY(fd)
	if err != nil {
		master.Close()
		return nil, "", virterr.New(virterr.SystemError, "cannot set up a pseudoterminal: %w", err)
	}
	return master, fmt.Sprintf("/dev/pts/%d", number), nil
}

// setUpPTY unlocks a pseudoterminal and turns off everything a terminal does to what passes through it.
func setUpPTY(fd int) (int, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return 0, err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return 0, err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return 0, err
	}
	return unix.IoctlGetInt(fd, unix.TIOCGPTN)
}
