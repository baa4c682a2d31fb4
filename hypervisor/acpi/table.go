package acpi

import (
	"encoding/binary"
	"fmt"
)

// Names of the two blobs; firmware will know them as fw_cfg files.
const (
	FileRSDP   = "etc/acpi/rsdp"
	FileTables = "etc/acpi/tables"
)

// Command is one step that turns blobs into tables in memory, in order. It is a pointer when Pointer is not empty, else
// a checksum.
type Command struct {
	File    string // the blob to change
	Offset  int    // of the pointer or checksum byte in File
	Pointer string // pointer: the blob whose address is added to the Size bytes at Offset
	Size    int    // pointer: 4 or 8 bytes
	Start   int    // checksum: first byte of the range that must sum to zero
	Length  int    // checksum: bytes
}

// Tables are the ACPI tables before they have an address.
type Tables struct {
	RSDP, Tables []byte
	Commands     []Command
}

const tableAlign = 16

const headerSize = 36 // System Description Table Header (5.2.6)

// Fields of the header that identify the maker (5.2.6).
const (
	oemID      = "VIRTD "
	creatorID  = "VRTD"
	oemVersion = 1
)

// builder appends tables to the blob.
type builder struct {
	Tables
	oemTable string // 8 bytes
}

// begin starts a table and returns its offset.
func (b *builder) begin(signature string, revision byte) int {
	for len(b.Tables.Tables)%tableAlign != 0 {
		b.Tables.Tables = append(b.Tables.Tables, 0)
	}
	at := len(b.Tables.Tables)
	h := make([]byte, headerSize)
	copy(h, signature)
	h[8] = revision
	copy(h[10:], oemID)
	copy(h[16:], b.oemTable)
	binary.LittleEndian.PutUint32(h[24:], oemVersion)
	copy(h[28:], creatorID)
	binary.LittleEndian.PutUint32(h[32:], 1)
	b.Tables.Tables = append(b.Tables.Tables, h...)
	return at
}

// end writes the length of the table that began at and asks for its checksum.
func (b *builder) end(at int) {
	n := len(b.Tables.Tables) - at
	binary.LittleEndian.PutUint32(b.Tables.Tables[at+4:], uint32(n))
	b.Commands = append(b.Commands, Command{File: FileTables, Offset: at + 9, Start: at, Length: n})
}

// pointer stores the offset of a table at a field of size bytes and asks for the blob's address to be added.
func (b *builder) pointer(at, size, target int) {
	p := make([]byte, 8)
	binary.LittleEndian.PutUint64(p, uint64(target))
	copy(b.Tables.Tables[at:at+size], p)
	b.Commands = append(b.Commands, Command{File: FileTables, Offset: at, Pointer: FileTables, Size: size})
}

func (b *builder) bytes(p ...byte) { b.Tables.Tables = append(b.Tables.Tables, p...) }
func (b *builder) word(v uint16) {
	b.Tables.Tables = binary.LittleEndian.AppendUint16(b.Tables.Tables, v)
}
func (b *builder) dword(v uint32) {
	b.Tables.Tables = binary.LittleEndian.AppendUint32(b.Tables.Tables, v)
}
func (b *builder) qword(v uint64) {
	b.Tables.Tables = binary.LittleEndian.AppendUint64(b.Tables.Tables, v)
}
func (b *builder) zeros(n int)            { b.Tables.Tables = append(b.Tables.Tables, make([]byte, n)...) }
func (b *builder) put8(at int, v byte)    { b.Tables.Tables[at] = v }
func (b *builder) put16(at int, v uint16) { binary.LittleEndian.PutUint16(b.Tables.Tables[at:], v) }
func (b *builder) put32(at int, v uint32) { binary.LittleEndian.PutUint32(b.Tables.Tables[at:], v) }

// Place runs the commands for tables that start at guest physical address gpa with the RSDP, which the boot protocols
// are told, and returns the bytes to put there. They must fit limit bytes. t is not changed.
func (t *Tables) Place(gpa uint64, limit int) ([]byte, error) {
	gap := (len(t.RSDP) + tableAlign - 1) &^ (tableAlign - 1)
	// The FACS has to be 64-byte aligned and is first in the blob.
	gap = (gap + facsAlign - 1) &^ (facsAlign - 1)
	out := make([]byte, gap+len(t.Tables))
	if len(out) > limit {
		return nil, fmt.Errorf("ACPI tables take %d bytes, and %d have room at %#x", len(out), limit, gpa)
	}
	copy(out, t.RSDP)
	copy(out[gap:], t.Tables)
	blobs := map[string][]byte{FileRSDP: out[:len(t.RSDP)], FileTables: out[gap:]}
	bases := map[string]uint64{FileRSDP: gpa, FileTables: gpa + uint64(gap)}
	for _, c := range t.Commands {
		blob := blobs[c.File]
		if c.Pointer == "" {
			var sum byte
			for _, v := range blob[c.Start : c.Start+c.Length] {
				sum += v
			}
			blob[c.Offset] -= sum
			continue
		}
		var p [8]byte
		copy(p[:c.Size], blob[c.Offset:])
		binary.LittleEndian.PutUint64(p[:], binary.LittleEndian.Uint64(p[:])+bases[c.Pointer])
		copy(blob[c.Offset:c.Offset+c.Size], p[:])
	}
	return out, nil
}
