// Package signature recognizes what a block device or image carries, as far as it matters for whoever is about to write to
// it: file systems, partition tables, volume managers, encryption, disk images. It reads a few places only and believes
// nothing that it reads.
//
// Places and magic numbers are those of the formats' own documents and of the kernel's headers; names are blkid's.
//
// Left out: whether what a signature announces is whole. Data of no known kind is told apart from none, so that a device
// that looks empty is empty at both of its ends.
//
// Start reading at Look.
package signature
