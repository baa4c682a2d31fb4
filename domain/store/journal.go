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

// A journal is a file of records, each the changes of definitions that one sync makes durable. Numbers are little-endian:
//
//	 0   4  "vdj1"
//	 4   4  bytes of the body
//	 8   4  CRC-32C of bytes 4 to 8 and the body
//	12      body: one change behind the other
//
// and a change is
//
//	 0   1  1 the definition is the text, 2 there is none
//	 1  16  UUID
//	17   4  bytes of the text
//	21      text
//
// The room for records is written with zeros before it is used, so that a sync has only the record to write and nothing of
// the file system's own. Each record begins a block, which what is behind it fills with zeros: what was acknowledged is never
// written again, and the file system can write blocks past the kernel's cache. Nothing but zeros is overwritten: what a power
// cut leaves of a record that was not yet acknowledged is the last thing in a file, in whatever order its sectors were written.
// Files are read in order of their numbers. Older builds wrote records directly behind one another.
const (
	journalPrefix = "journal."
	recordMagic   = "vdj1"
	recordHead    = 12
	changeHead    = 21

	changeSave   = 1
	changeDelete = 2

	damagedExt = ".damaged" // of a journal that could not be read as a whole

	maxJournal = 32 << 20 // bytes with records in a file
	maxRead    = 64 << 20 // bytes that are read of a file

	blockSize = 4096 // bytes of a block; goDirect finds out where a disk wants larger ones

	firstRoom = 256 << 10 // bytes of zeros that a journal begins with; it doubles
)

// change is what happens to one definition.
type change struct {
	id   uuid.UUID
	text string // "": it goes away
}

// size is how many bytes the change takes in a record.
func (c change) size() int { return changeHead + len(c.text) }

// room is how many bytes it takes in a journal, in blocks of its own.
func (c change) room() int { return blocks(recordHead + c.size()) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord appends the record of changes that are made at once.
func appendRecord(b []byte, changes ...change) []byte {
	start := len(b)
	b = append(b, recordMagic...)
	b = append(b, make([]byte, recordHead-len(recordMagic))...) // length and checksum, below
	for _, c := range changes {
		kind := byte(changeSave)
		if c.text == "" {
			kind = changeDelete
		}
		b = append(b, kind)
		b = append(b, c.id[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(c.text)))
		b = append(b, c.text...)
	}
	binary.LittleEndian.PutUint32(b[start+4:], uint32(len(b)-start-recordHead))
	binary.LittleEndian.PutUint32(b[start+8:], checksum(b[start:]))
	return b
}

// blocks is how many bytes so many take in whole blocks.
func blocks(size int) int { return (size + blockSize - 1) / blockSize * blockSize }

// checksum is that of one whole record.
func checksum(record []byte) uint32 {
	return crc32.Update(crc32.Checksum(record[4:8], castagnoli), castagnoli, record[recordHead:])
}

// nextRecord returns the changes of the record that b begins with and its length, or length 0 when there is no whole one.
func nextRecord(b []byte) (changes []change, n int) {
	if len(b) < recordHead+changeHead || string(b[:4]) != recordMagic {
		return nil, 0
	}
	size := binary.LittleEndian.Uint32(b[4:])
	if uint64(size) > uint64(len(b)-recordHead) {
		return nil, 0
	}
	n = recordHead + int(size)
	if binary.LittleEndian.Uint32(b[8:]) != checksum(b[:n]) {
		return nil, 0
	}
	for body := b[recordHead:n]; len(body) > 0; {
		c, size := nextChange(body)
		if size == 0 {
			return nil, 0
		}
		changes = append(changes, c)
		body = body[size:]
	}
	return changes, n
}

// nextChange returns the change that b begins with and its length, or length 0 when that is none.
func nextChange(b []byte) (c change, n int) {
	if len(b) < changeHead {
		return c, 0
	}
	size := binary.LittleEndian.Uint32(b[changeHead-4:])
	if uint64(size) > uint64(len(b)-changeHead) {
		return c, 0
	}
	n = changeHead + int(size)
	c.id = uuid.UUID(b[1:17])
	switch {
	case b[0] == changeSave && size > 0:
		c.text = string(b[changeHead:n])
	case b[0] != changeDelete || size != 0:
		return c, 0
	}
	return c, n
}

// readRecords returns the changes of the whole records that a journal begins with. damaged tells of a whole record behind bytes that are
// none: that is no unfinished write, since only the last one can be unfinished.
func readRecords(b []byte) (changes []change, damaged error) {
	at := 0
	for {
		more, n := nextRecord(b[at:])
		if n == 0 {
			next := min(blocks(at), len(b))
			if next == at || len(bytes.Trim(b[at:next], "\x00")) > 0 {
				break
			}
			n = next - at
		}
		changes = append(changes, more...)
		at += n
	}
	for i := at + 1; i < len(b); i++ {
		next := bytes.Index(b[i:], []byte(recordMagic))
		if next < 0 {
			break
		}
		i += next
		if _, n := nextRecord(b[i:]); n > 0 {
			return changes, fmt.Errorf("bytes %d to %d are no record, and there is one behind them", at, i)
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
