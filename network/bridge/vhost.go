package bridge

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

const vhostNetDevice = "/dev/vhost-net"

// OpenVhostNet implements Links.
func (h *Host) OpenVhostNet(n int) ([]*os.File, error) {
	var files []*os.File
	for range n {
		fd, err := unix.Open(vhostNetDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			hint := ""
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
				hint = " (load the kernel module vhost_net)"
			}
			return nil, virterr.New(virterr.ConfigUnsupported,
				"vhost-net was requested for an interface, but is unavailable: open %s: %w%s", vhostNetDevice, errno(err), hint)
		}
		files = append(files, os.NewFile(uintptr(fd), vhostNetDevice))
	}
	return files, nil
}
