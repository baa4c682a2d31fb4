package statefile

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Version is the version of the format that Writer writes. Reader reads it and every older one.
const Version = 1

// PageSize is the unit of a pages record, in bytes.
const PageSize = 4096

// Limits of what a stream may hold. A reader never has more than one record in memory.
const (
	// MaxPages is the most pages of one record.
	MaxPages = 256
	// MaxSection is the most bytes of state of one section.
	MaxSection = 4 << 20
	// MaxSections is the most sections of a stream.
	MaxSections = 4096
	maxName     = 255
)

// Errors of a Reader, wrapped with the place.
var (
	// ErrFormat: what is there is no saved machine, or one of a version that this build does not read.
	ErrFormat = errors.New("not the state of a machine that this engine can read")
	// ErrTruncated: the stream ends before its end record.
	ErrTruncated = errors.New("the saved state is cut off")
	// ErrCorrupt: a checksum or a length is wrong.
	ErrCorrupt = errors.New("the saved state is damaged")
)

const (
	magic        = "VIRTDVM\n"
	preambleSize = 16
	recordHead   = 12
	addressSize  = 8
	endSize      = 16
	maxPayload   = 2 + maxName + MaxSection
)

// Kinds of records.
const (
	kindSection = 1
	kindPages   = 2
	kindEnd     = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers a record's place in the stream too.
func checksum(number uint64, kind uint32, payload []byte) uint32 {
	var head [16]byte
	binary.LittleEndian.PutUint64(head[:], number)
	binary.LittleEndian.PutUint32(head[8:], kind)
	binary.LittleEndian.PutUint32(head[12:], uint32(len(payload)))
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, payload)
}
