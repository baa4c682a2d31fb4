// Package nodedev knows the devices of the host: it lists them from sysfs, describes each in libvirt's XML under the name that
// libvirt's udev driver gives it, and tells when they come, change and go. It makes mediated devices and keeps their
// definitions (mdev_change.go). It takes PCI functions from the host's drivers for guests and gives them back (Hostdevs).
//
// It needs no udev: where udevd's database exists (serial numbers of disks, links in /dev) it is read, else sysfs has to do.
// The index is a cache of which devices exist; descriptions are read from sysfs when somebody asks, so they are never old.
//
// Start reading at Manager; device.go says what becomes a device, one file per kind says how it is described.
package nodedev
