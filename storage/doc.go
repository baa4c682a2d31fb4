// Package storage manages storage pools and the volumes in them: directories (type dir), file systems that it mounts (fs) and
// LVM volume groups (logical). Pools are defined in XML files of their own, survive kill -9 and power cuts as domains do, and
// are found active again by the next virtd; volumes are never recorded anywhere: each regular file of a directory and each
// active logical volume is one, so that what a list says is what is there.
//
// A pool deletes only what was asked for by name: its directory only when that is empty, its volume group only without volumes,
// a volume only by its own file. Building destroys nothing that a device carries, whatever it is (package signature), unless
// told to. Creation never replaces a file, and a file has its name when it is complete. Data that came over an upload is on disk
// before the upload ends well.
//
// Volumes are raw or qcow2 (package qcow2). Showing one opens only its own file, and believes nothing in it; copying and
// growing one opens what its header names, for reading. A file that a guest had as a raw disk is raw for ever (noted.go).
//
// What types of pools differ in is a backend; what they do to the host beyond opening files goes through a Host, so that tests
// need neither root nor LVM. Programs of the host run without a shell, in English, and not for ever.
//
// Left out: pools of other types, other formats, thin volumes of LVM, shrinking qcow2, the wire protocol (package daemon).
//
// Start reading at Manager, then Pool, backend, Volume.
package storage
