// Package statefile is the format in which an engine saves its machine: a stream of checksummed records that one engine
// writes and another, later, reads.
//
// All numbers are little-endian. A stream begins with
//
//	0   8  "VIRTDVM\n"
//	8   4  version, 1
//	12  4  zero
//
// and goes on with records up to an end record:
//
//	0   4  kind: 1 section, 2 pages, 3 end
//	4   4  bytes of payload
//	8   4  CRC-32C of the record's number (64 bits, from 0), its kind, its length and its payload
//	12     payload
//
// A section is a name (16 bits of length, then the text) and what one part of the machine calls its state; the names are
// hypervisor's. Sections come before pages. Pages are a guest physical address (64 bits) and whole 4 KiB pages of RAM
// from there on; pages that no record names are zero. The end is the number of sections and the number of pages, 64
// bits each. What follows the end does not belong to the stream.
//
// The number of each record goes into its checksum, so that records that are missing, repeated or swapped show; a stream
// without its end is truncated, whatever came before. Every length has a limit. A reader can therefore be pointed at
// anything.
//
// The package leaves out what sections mean and where a stream is kept. Start reading at Writer and Reader.
package statefile
