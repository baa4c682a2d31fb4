package signature

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Found is one signature.
type Found struct {
	Name   string // blkid's: ext4, LVM2_member, gpt
	Kind   Kind
	Offset int64 // where it stands, in bytes
}

// End is how much of each end of a device is looked at.
const End = 1 << 20

// window is what was read of a device.
type window struct {
	size       int64
	head, tail []byte // tail ends where the device does
}

// Report is what a device carries.
type Report struct {
	Found []Found // each name once, in the order of their places
	// Data is where the first byte is that is not zero, within End bytes of either end of the device; negative when there is
	// none.
	Data int64
}

// Empty reports whether nothing was seen.
func (r Report) Empty() bool { return len(r.Found) == 0 && r.Data < 0 }

// String says what was found, for an error's text.
func (r Report) String() string {
	text := ""
	for _, f := range r.Found {
		if text != "" {
			text += ", "
		}
		text += f.Name
	}
	if text == "" && r.Data >= 0 {
		text = fmt.Sprintf("data of an unknown kind at byte %d", r.Data)
	}
	return text
}

// FileSystem returns the file system's name when the device carries one and nothing else.
func (r Report) FileSystem() (string, bool) {
	if len(r.Found) != 1 || r.Found[0].Kind != FileSystem {
		return "", false
	}
	return r.Found[0].Name, true
}

// Look reads both ends of a device of size bytes.
func Look(r io.ReaderAt, size int64) (Report, error) {
	w := window{size: size, head: make([]byte, min(size, End+4096)), tail: make([]byte, min(size, End))}
	for _, part := range []struct {
		buf []byte
		at  int64
	}{{w.head, 0}, {w.tail, size - int64(len(w.tail))}} {
		if n, err := r.ReadAt(part.buf, part.at); n < len(part.buf) && err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Report{}, err
		}
	}
	report := Report{Found: w.found(), Data: -1}
	if at := slices.IndexFunc(w.head, notZero); at >= 0 {
		report.Data = int64(at)
	} else if at := slices.IndexFunc(w.tail, notZero); at >= 0 {
		report.Data = size - int64(len(w.tail)) + int64(at)
	}
	return report, nil
}

func notZero(b byte) bool { return b != 0 }

// at returns n bytes from an offset, which counts from the end where it is negative; nil when they were not read.
func (w window) at(offset int64, n int) []byte {
	if offset < 0 {
		offset += w.size
	}
	if offset >= 0 && offset+int64(n) <= int64(len(w.head)) {
		return w.head[offset : offset+int64(n)]
	}
	offset -= w.size - int64(len(w.tail))
	if offset >= 0 && offset+int64(n) <= int64(len(w.tail)) {
		return w.tail[offset : offset+int64(n)]
	}
	return nil
}

func (w window) has(offset int64, text string) bool {
	return string(w.at(offset, len(text))) == text && text != ""
}

func (w window) found() []Found {
	var out []Found
	add := func(name string, kind Kind, at int64) {
		if at < 0 {
			at += w.size
		}
		if !slices.ContainsFunc(out, func(f Found) bool { return f.Name == name }) {
			out = append(out, Found{name, kind, at})
		}
	}
	for _, m := range magics {
		if w.has(m.offset, m.text) {
			add(m.name, m.kind, m.offset)
		}
	}
	if name := w.ext(); name != "" {
		kind := FileSystem
		if name == "jbd" {
			kind = Member
		}
		add(name, kind, 1080)
	}
	if w.fat() {
		add("vfat", FileSystem, 0)
	}
	if at, ok := w.raid(); ok {
		add("linux_raid_member", Member, at)
	}
	if at, ok := w.zfs(); ok {
		add("zfs_member", Member, at)
	}
	if w.dos(out) {
		add("dos", Partitions, 510)
	}
	slices.SortStableFunc(out, func(a, b Found) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	return out
}

// ext names the file system of the ext family by its features (the kernel's fs/ext4/ext4.h).
func (w window) ext() string {
	const (
		journal    = 0x4   // compatible: EXT4_FEATURE_COMPAT_HAS_JOURNAL
		journalDev = 0x8   // incompatible: EXT4_FEATURE_INCOMPAT_JOURNAL_DEV
		known3     = 0x16  // incompatible: FILETYPE, RECOVER, META_BG
		known3ro   = 0x7   // read-only compatible: SPARSE_SUPER, LARGE_FILE, BTREE_DIR
		features   = 0x400 // of the superblock
	)
	super := w.at(features, 1024)
	if super == nil || binary.LittleEndian.Uint16(super[0x38:]) != 0xef53 {
		return ""
	}
	compat, incompat, ro := binary.LittleEndian.Uint32(super[0x5c:]), binary.LittleEndian.Uint32(super[0x60:]), binary.LittleEndian.Uint32(super[0x64:])
	switch {
	case incompat&journalDev != 0:
		return "jbd"
	case incompat&^known3 != 0 || ro&^known3ro != 0:
		return "ext4"
	case compat&journal != 0:
		return "ext3"
	}
	return "ext2"
}

// bootSector reports whether the first sector ends as those do that firmware boots from.
func (w window) bootSector() bool { return w.has(510, "\x55\xaa") }

func (w window) fat() bool {
	return w.bootSector() && (w.has(54, "FAT12   ") || w.has(54, "FAT16   ") || w.has(82, "FAT32   "))
}

// raid finds the superblocks of Linux' software RAID that stand at the end: of format 0.90 and 1.0.
func (w window) raid() (int64, bool) {
	for _, at := range []int64{w.size&^0xffff - 0x10000, (w.size/512 - 16) &^ 7 * 512} {
		if at > 0 && w.has(at, "\xfc\x4e\x2b\xa9") {
			return at, true
		}
	}
	return 0, false
}

// zfs finds an uberblock in the first label's ring.
func (w window) zfs() (int64, bool) {
	for at := int64(128 << 10); at < 256<<10; at += 1 << 10 {
		if w.has(at, "\x0c\xb1\xba\x00\x00\x00\x00\x00") || w.has(at, "\x00\x00\x00\x00\x00\xba\xb1\x0c") {
			return at, true
		}
	}
	return 0, false
}

// dos reports whether the first sector is a partition table with entries that can be ones. The one that stands before a GPT,
// and what merely ends like a boot sector, are none.
func (w window) dos(others []Found) bool {
	if !w.bootSector() || slices.ContainsFunc(others, func(f Found) bool { return f.Name == "gpt" || f.Offset < 512 }) {
		return false
	}
	const first, length = 446, 16 // of the entries
	entries := 0
	for i := range int64(4) {
		e := w.at(first+i*length, length)
		if e[0]&0x7f != 0 {
			return false
		}
		if e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) != 0 {
			entries++
		}
	}
	return entries > 0
}
