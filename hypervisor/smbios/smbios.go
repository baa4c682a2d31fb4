package smbios

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"virtd/hypervisor/memory"
)

// Address is where the machine puts the tables, the first place guests look (5.2.2). MaxSize bytes have room there.
const (
	Address = 0xf0000
	MaxSize = 0x10000
)

// Config is what the tables say.
type Config struct {
	UUID    string // canonical text
	Product string // system product name
	Version string // the machine type
	Serial  string // system serial number, "" for none
	Sockets int
	Cores   int // of a socket
	Threads int // of a core
	RAM     []memory.Range
}

const (
	maker       = "virtd"
	entrySize   = 24
	entryAlign  = 16
	noHandle    = 0xfffe // error information not provided (7.17)
	arrayHandle = 0x1000
)

type builder struct{ table []byte }

// add appends a structure: type, length, handle, body, strings, zero.
func (b *builder) add(kind byte, handle uint16, body []byte, texts ...string) {
	b.table = append(b.table, kind, byte(4+len(body)), byte(handle), byte(handle>>8))
	b.table = append(b.table, body...)
	any := false
	for _, s := range texts {
		if s != "" {
			b.table = append(append(b.table, s...), 0)
			any = true
		}
	}
	if !any {
		b.table = append(b.table, 0)
	}
	b.table = append(b.table, 0)
}

// Build returns the entry point followed by the table, for guest physical address Address.
func Build(c Config) ([]byte, error) {
	id, err := parseUUID(c.UUID)
	if err != nil {
		return nil, err
	}
	for _, s := range []string{c.Product, c.Version, c.Serial} {
		if len(s) > 64 || strings.IndexByte(s, 0) >= 0 {
			return nil, fmt.Errorf("build SMBIOS tables: %q is no string of up to 64 characters", s)
		}
	}
	b := &builder{}
	b.firmware()
	b.system(&c, id)
	b.chassis()
	b.processors(&c)
	b.memory(&c)
	b.add(32, 0x2000, make([]byte, 7)) // boot status: no errors
	b.add(127, 0x7f00, nil)
	if entrySize+entryAlign+len(b.table) > MaxSize {
		return nil, fmt.Errorf("build SMBIOS tables: %d bytes have no room in %d", len(b.table), MaxSize)
	}
	return append(entry(len(b.table)), b.table...), nil
}

// entry is the 64-bit entry point (5.2.2), padded.
func entry(tableSize int) []byte {
	e := make([]byte, entrySize+entryAlign-entrySize%entryAlign)
	copy(e, "_SM3_")
	e[6] = entrySize
	e[7], e[8] = 3, 0
	e[10] = 1
	binary.LittleEndian.PutUint32(e[12:], uint32(tableSize))
	binary.LittleEndian.PutUint64(e[16:], uint64(Address+len(e)))
	var sum byte
	for _, v := range e[:entrySize] {
		sum += v
	}
	e[5] = -sum
	return e
}

// parseUUID returns the bytes as 7.2.1 wants them: the first three groups little-endian.
func parseUUID(s string) ([16]byte, error) {
	var id [16]byte
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != 16 {
		return id, fmt.Errorf("build SMBIOS tables: %q is not a UUID", s)
	}
	for i, at := range []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		id[i] = raw[at]
	}
	return id, nil
}

// firmware is type 0 (7.1). Characteristics extension byte 2, bit 4, says that this is a virtual machine.
func (b *builder) firmware() {
	body := make([]byte, 20)
	body[0], body[1], body[4] = 1, 2, 3
	binary.LittleEndian.PutUint16(body[2:], 0xe000)
	body[6] = 1 << 3 // characteristics not supported
	body[15] = 1 << 4
	for i := 16; i < 20; i++ {
		body[i] = 0xff // releases unknown
	}
	body[16], body[17] = 1, 0
	b.add(0, 0, body, maker, "1.0", "01/01/2026")
}

// system is type 1 (7.2).
func (b *builder) system(c *Config, id [16]byte) {
	body := make([]byte, 23)
	n := byte(0)
	texts := []string{maker, c.Product, c.Version, c.Serial}
	for i, s := range texts {
		if s != "" {
			n++
			body[i] = n
		}
	}
	copy(body[4:], id[:])
	body[20] = 6 // power switch
	b.add(1, 0x100, body, texts...)
}

// chassis is type 3 (7.4): other, all states safe.
func (b *builder) chassis() {
	body := make([]byte, 18)
	body[0], body[1] = 1, 1
	body[5], body[6], body[7], body[8] = 3, 3, 3, 2
	b.add(3, 0x300, body, maker)
}

// processors is one type 4 (7.5) for each socket.
func (b *builder) processors(c *Config) {
	for i := range c.Sockets {
		body := make([]byte, 44)
		body[0], body[1], body[3] = 1, 3, 2 // central processor
		body[2] = 1                         // family: other
		body[20] = 0x41                     // populated, enabled
		body[21] = 1                        // upgrade: other
		for at := 22; at < 28; at++ {
			body[at] = 0xff // no cache handles
		}
		cores, threads := c.Cores, c.Cores*c.Threads
		body[31], body[32], body[33] = byte(min(cores, 255)), byte(min(cores, 255)), byte(min(threads, 255))
		body[34] = 1 << 2                           // 64-bit capable
		binary.LittleEndian.PutUint16(body[36:], 2) // family 2: unknown
		binary.LittleEndian.PutUint16(body[38:], uint16(cores))
		binary.LittleEndian.PutUint16(body[40:], uint16(cores))
		binary.LittleEndian.PutUint16(body[42:], uint16(threads))
		b.add(4, 0x400+uint16(i), body, fmt.Sprintf("CPU %d", i), maker)
	}
}

// memory is types 16, 17 and 19 (7.17, 7.18, 7.20): an array with one device, mapped where RAM is.
func (b *builder) memory(c *Config) {
	var size uint64
	for _, r := range c.RAM {
		size += r.Size
	}
	le := binary.LittleEndian
	array := make([]byte, 19)
	array[0], array[1], array[2] = 1, 3, 6 // other location, system memory, multi-bit ECC
	le.PutUint32(array[3:], 0x80000000)
	le.PutUint16(array[7:], noHandle)
	le.PutUint16(array[9:], 1)
	le.PutUint64(array[11:], size)
	b.add(16, arrayHandle, array)

	dev := make([]byte, 36)
	le.PutUint16(dev[0:], arrayHandle)
	le.PutUint16(dev[2:], noHandle)
	le.PutUint16(dev[4:], 0xffff)
	le.PutUint16(dev[6:], 0xffff)
	mib := size >> 20
	if mib < 0x7fff {
		le.PutUint16(dev[8:], uint16(mib))
	} else {
		le.PutUint16(dev[8:], 0x7fff)
		le.PutUint32(dev[24:], uint32(mib))
	}
	dev[10], dev[12], dev[14] = 9, 1, 7 // DIMM, locator, type RAM
	le.PutUint16(dev[15:], 1<<1)        // type detail: other
	dev[19] = 2
	b.add(17, arrayHandle+0x100, dev, "DIMM 0", maker)

	for i, r := range c.RAM {
		m := make([]byte, 27)
		le.PutUint32(m[0:], 0xffffffff)
		le.PutUint32(m[4:], 0xffffffff)
		le.PutUint16(m[8:], arrayHandle)
		m[10] = 1
		le.PutUint64(m[11:], r.GPA)
		le.PutUint64(m[19:], r.GPA+r.Size-1)
		b.add(19, arrayHandle+0x200+uint16(i), m)
	}
}
