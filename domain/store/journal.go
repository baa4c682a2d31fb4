package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// A journal is a file of records, each a change of one definition. Numbers are little-endian:
//
//	 0   4  "vdj1"
//	 4   4  bytes of the body, 17 or more
//	 8   4  CRC-32C of bytes 4 to 8 and the body
//	12   1  body: 1 the definition is the text behind the UUID, 2 there is none
//	13  16        UUID
//	29            text
//
// Records are appended and synced, and nothing is overwritten, so that what a power cut leaves of a record that was not yet
// acknowledged is at the end of a file. Files are read in order of their numbers.
const (
	journalPrefix = "journal."
	recordMagic   = "vdj1"
	recordHead    = 12
	recordUUID    = recordHead + 1
	recordText    = recordUUID + 16

	recordSave   = 1
	recordDelete = 2

	damagedExt = ".damaged" // of a journal that could not be read as a whole

	maxJournal = 64 << 20 // bytes that are read of a file; commit leaves one for another long before that
)

// change is what happens to one definition.
type change struct {
	id   uuid.UUID
	text []byte // nil: it goes away
}

// size is how many bytes the change's record has.
func (c change) size() int { return recordText + len(c.text) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord appends the record of a change.
func appendRecord(b []byte, c change) []byte {
	start := len(b)
	b = append(b, recordMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(recordText-recordHead+len(c.text)))
	b = append(b, 0, 0, 0, 0) // the checksum, below
	kind := byte(recordSave)
	if c.text == nil {
		kind = recordDelete
	}
	b = append(b, kind)
	b = append(b, c.id[:]...)
	b = append(b, c.text...)
	binary.LittleEndian.PutUint32(b[start+8:], checksum(b[start:]))
	return b
}

// checksum is that of one whole record.
func checksum(record []byte) uint32 {
	return crc32.Update(crc32.Checksum(record[4:8], castagnoli), castagnoli, record[recordHead:])
}

// nextRecord returns the record that b begins with and its length, or length 0 when there is no whole one. The text
// aliases b.
func nextRecord(b []byte) (c change, n int) {
	if len(b) < recordText || string(b[:4]) != recordMagic {
		return c, 0
	}
	body := binary.LittleEndian.Uint32(b[4:])
	if body < recordText-recordHead || uint64(body) > uint64(len(b)-recordHead) {
		return c, 0
	}
	n = recordHead + int(body)
	if binary.LittleEndian.Uint32(b[8:]) != checksum(b[:n]) {
		return c, 0
	}
	c.id = uuid.UUID(b[recordUUID:recordText])
	switch b[recordHead] {
	case recordSave:
		c.text = b[recordText:n:n]
	case recordDelete:
	default:
		return c, 0
	}
	return c, n
}

// readRecords returns the whole records that a journal begins with. damaged tells of a whole record behind bytes that are
// none: that is no unfinished write, since only the last one can be unfinished.
func readRecords(b []byte) (changes []change, damaged error) {
	size := len(b)
	for {
		c, n := nextRecord(b)
		if n == 0 {
			break
		}
		changes = append(changes, c)
		b = b[n:]
	}
	at := size - len(b)
	for i := 1; i < len(b); i++ {
		next := bytes.Index(b[i:], []byte(recordMagic))
		if next < 0 {
			break
		}
		i += next
		if _, n := nextRecord(b[i:]); n > 0 {
			return changes, fmt.Errorf("bytes %d to %d are no record, and there is one behind them", at, at+i)
		}
	}
	return changes, nil
}

// journalNumber returns the number in the name of a journal.
func journalNumber(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, journalPrefix)
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil && strconv.FormatUint(n, 10) == digits
}

// journalsIn returns the numbers of the journals among file names, in order.
func journalsIn(names []string) []uint64 {
	var list []uint64
	for _, name := range names {
		if n, ok := journalNumber(name); ok {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}
