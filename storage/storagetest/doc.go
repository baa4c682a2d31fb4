// Package storagetest has a host for tests of storage pools that mounts nothing and has no LVM: block devices are files in a
// folder, what is mounted is a list, and LVM's programs are imitated as far as package storage uses them.
//
// Start reading at Host.
package storagetest
