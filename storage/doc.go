// Package storage manages storage pools of type dir and the volumes in them: named directories, and the image files in
// these. Pools are defined in XML files of their own, survive kill -9 and power cuts as domains do, and are found active again
// by the next virtd; volumes are never recorded anywhere: each regular file of the directory is one, so that what a list says
// is what is there.
//
// A pool deletes only what was asked for by name: its directory only when that is empty, a volume only by its own file.
// Creation never replaces a file, and a file has its name when it is complete. Data that came over an upload is on disk before the upload ends well.
//
// Volumes are raw or qcow2 (package qcow2). Showing one opens only its own file, and believes nothing in it; copying and
// growing one opens what its header names, for reading.
//
// Left out: pools of other types, other formats, shrinking qcow2, the wire protocol (package daemon).
//
// Start reading at Manager, then Pool, then Volume.
package storage
