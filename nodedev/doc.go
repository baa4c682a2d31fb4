// Package nodedev knows the devices of the host: it lists them from sysfs, describes each in libvirt's XML under the name that
// libvirt's udev driver gives it, and tells when they come, change and go.
//
// It looks only: it binds no driver and resets nothing. It needs no udev: where udevd's database exists (serial numbers of
// disks, links in /dev) it is read, else sysfs has to do. The index is a cache of which devices exist; descriptions are read
// from sysfs when somebody asks, so they are never old.
//
// Start reading at Manager; device.go says what becomes a device, one file per kind says how it is described.
package nodedev
