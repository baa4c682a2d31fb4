package bridge

import (
	"cmp"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// VhostNetDevice is where the kernel's vhost-net is opened.
const VhostNetDevice = "/dev/vhost-net"

// OpenVhostNet implements Links.
func (h *Host) OpenVhostNet(path string, n int) ([]*os.File, error) {
	path = cmp.Or(path, VhostNetDevice)
	var files []*os.File
	for range n {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			hint := ""
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
				hint = " (load the kernel module vhost_net)"
			}
			return nil, virterr.New(virterr.ConfigUnsupported,
				"vhost-net was requested for an interface, but is unavailable: open %s: %w%s", path, errno(err), hint)
		}
		files = append(files, os.NewFile(uintptr(fd), path))
	}
	return files, nil
}
