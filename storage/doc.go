// Package storage manages storage pools of type dir and the volumes in them: named directories, and the image files in
// these. Pools are defined in XML files of their own, survive kill -9 and power cuts as domains do, and are found active again
// by the next virtd; volumes are never recorded anywhere: each regular file of the directory is one, so that what a list says
// is what is there.
//
// A pool deletes only what was asked for by name: its directory only when that is empty, a volume only by its own file.
// Creation never replaces a file. Data that came over an upload is on disk before the upload ends well.
//
// Left out: pools of other types, writing formats other than raw, backing chains (a qcow2 header's word about its backing
// file is shown, the file is not opened), the wire protocol (package daemon).
//
// Start reading at Manager, then Pool, then Volume.
package storage
