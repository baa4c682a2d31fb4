// Package qcow2 reads, writes, makes, checks and repairs images of QEMU's format qcow2, versions 2 and 3
// (docs/interop/qcow2.rst of QEMU is the specification that comments cite).
//
// An Image looks guest offsets up in its L1 table, in memory, and in a cache of L2 tables of fixed size. Map does that
// without lock, allocation or I/O, so that the data of clusters that are there goes the way of a raw file; everything
// else is done by Read, Write, WriteZeroes and Discard, which block. Writes that allocate are serialised.
//
// Metadata is written back in an order that needs no repair after a crash at any instant: refcounts before what refers
// to a cluster, contents before what points to them, and a cluster is given back only when nothing on disk refers to it.
// Clusters may leak; Check finds and frees them. Nothing is durable before Flush.
//
// Nothing that a file says is believed: tables must lie in the file, their sizes are limited, and memory is bounded
// whatever the image. The package opens no files: backing images are given by whoever opened them.
//
// Left out: encryption, external data files, making and deleting internal snapshots, bitmaps, writing compressed
// clusters, shrinking. Each is refused by name where an image needs it. Start reading at Image, then Image.Map and
// Image.Flush.
package qcow2
