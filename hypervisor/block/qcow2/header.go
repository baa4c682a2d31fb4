package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
)

// The header's fields and flags.
const (
	magic       = 0x514649fb // "QFI\xfb"
	headerSize2 = 72
	headerSize3 = 104
	headerBytes = 112 // what we write: version 3 with the compression type, padded to 8

	fieldSize     = 24
	fieldL1Size   = 36
	fieldRefTable = 48
	fieldIncompat = 72
	fieldAuto     = 88

	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
	incompatKnown       = incompatDirty | incompatCorrupt | incompatDataFile | incompatCompression | incompatExtendedL2

	compatLazyRefcounts = 1 << 0

	extensionEnd      = 0
	extensionBacking  = 0xe2792aca
	extensionFeatures = 0x6803f857
	featureNameSize   = 48
)

// Limits. Those of table sizes are QEMU's own.
const (
	minClusterBits    = 9
	maxClusterBits    = 21
	minExtendedBits   = 14
	maxBackingName    = 1023
	maxL1Bytes        = 32 << 20
	maxRefTableBytes  = 8 << 20
	maxHeaderBytes    = 64 << 10 // of header and extensions that are looked at
	maxSize           = 1 << 56  // bytes an offset in an entry can reach
	subclusters       = 32
	subclusterAllBits = 1<<subclusters - 1
)

// Compression says how compressed clusters are.
type Compression uint8

// Compression types.
const (
	Zlib Compression = 0
	Zstd Compression = 1
)

// Header is what the first cluster of an image says.
type Header struct {
	Version       int
	ClusterBits   int
	Size          int64  // bytes a guest sees
	BackingFile   string // as written, "" is none
	BackingFormat string // "" where the image does not say
	Compression   Compression
	ExtendedL2    bool
	LazyRefcounts bool
	Dirty         bool
	Corrupt       bool
	RefcountBits  int
	Snapshots     int

	l1Entries       int64
	l1Off           int64
	refTableOff     int64
	refTableEntries int64
	incompat        uint64
	autoclear       uint64
}

// ClusterSize is the bytes of a cluster.
func (h *Header) ClusterSize() int64 { return 1 << h.ClusterBits }

// l2Entries is the number of clusters that an L2 table maps.
func (h *Header) l2Entries() int64 {
	if h.ExtendedL2 {
		return h.ClusterSize() / 16
	}
	return h.ClusterSize() / 8
}

// ReadHeader reads and checks the header of an image, its extensions included. It looks at 64 KiB at most.
func ReadHeader(f File) (*Header, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, min(max(size, 0), maxHeaderBytes))
	if err := f.Read(buf, 0); err != nil {
		return nil, err
	}
	h, err := parseHeader(buf, size)
	if err != nil {
		return nil, err
	}
	return h, nil
}

func parseHeader(b []byte, fileSize int64) (*Header, error) {
	be := binary.BigEndian
	if len(b) < 8 || be.Uint32(b) != magic {
		return nil, ErrNotQcow2
	}
	h := &Header{Version: int(be.Uint32(b[4:]))}
	if h.Version != 2 && h.Version != 3 {
		return nil, &UnsupportedError{fmt.Sprintf("version %d of the format", be.Uint32(b[4:]))}
	}
	length := int64(headerSize2)
	if h.Version == 3 {
		length = headerSize3
	}
	if int64(len(b)) < length {
		return nil, corrupt("the file ends in its header")
	}
	h.RefcountBits = 16
	if h.Version == 3 {
		if length = int64(be.Uint32(b[100:])); length < headerSize3 || length%8 != 0 || length > int64(len(b)) {
			return nil, corrupt("header of %d bytes", length)
		}
		if be.Uint32(b[96:]) > 6 {
			return nil, corrupt("refcounts of 2^%d bits", be.Uint32(b[96:]))
		}
		h.RefcountBits = 1 << be.Uint32(b[96:])
		h.incompat, h.autoclear = be.Uint64(b[fieldIncompat:]), be.Uint64(b[fieldAuto:])
		h.LazyRefcounts = be.Uint64(b[80:])&compatLazyRefcounts != 0
	}
	if err := h.readFixed(b, fileSize); err != nil {
		return nil, err
	}
	cluster := b[:min(h.ClusterSize(), int64(len(b)))]
	if err := h.readExtensions(cluster, length); err != nil {
		return nil, err
	}
	if err := h.readFeatures(b, length); err != nil {
		return nil, err
	}
	return h, h.readBacking(b)
}

// readFixed reads the fields that both versions have.
func (h *Header) readFixed(b []byte, fileSize int64) error {
	be := binary.BigEndian
	bits := be.Uint32(b[20:])
	if bits < minClusterBits || bits > maxClusterBits {
		return corrupt("clusters of 2^%d bytes; there can be 2^%d to 2^%d", bits, minClusterBits, maxClusterBits)
	}
	h.ClusterBits = int(bits)
	h.ExtendedL2 = h.incompat&incompatExtendedL2 != 0
	if h.ExtendedL2 && bits < minExtendedBits {
		return corrupt("extended L2 entries with clusters of 2^%d bytes", bits)
	}
	if m := be.Uint32(b[32:]); m != 0 {
		return &UnsupportedError{fmt.Sprintf("encryption (method %d)", m)}
	}
	size, l1, l1Off := be.Uint64(b[fieldSize:]), be.Uint32(b[fieldL1Size:]), be.Uint64(b[40:])
	refOff, refClusters := be.Uint64(b[fieldRefTable:]), be.Uint32(b[56:])
	snapshots := be.Uint32(b[60:])
	switch {
	case size > maxSize:
		return corrupt("%d bytes of size are more than an image can have", size)
	case uint64(l1)*8 > maxL1Bytes:
		return corrupt("an L1 table of %d entries; %d are the most", l1, maxL1Bytes/8)
	case snapshots > 65536:
		return corrupt("%d snapshots", snapshots)
	}
	h.Size, h.l1Entries, h.Snapshots = int64(size), int64(l1), int(snapshots)
	if need := divUp(h.Size, h.l2Entries()<<bits); h.l1Entries < need {
		return corrupt("an L1 table of %d entries where %d bytes need %d", l1, size, need)
	}
	if err := h.inFile("L1 table", l1Off, int64(l1)*8, fileSize); err != nil {
		return err
	}
	refBytes := int64(refClusters) << bits
	if refClusters == 0 || refBytes > maxRefTableBytes {
		return corrupt("a refcount table of %d clusters", refClusters)
	}
	if err := h.inFile("refcount table", refOff, refBytes, fileSize); err != nil {
		return err
	}
	h.l1Off, h.refTableOff, h.refTableEntries = int64(l1Off), int64(refOff), refBytes/8
	return nil
}

// inFile checks where a table is.
func (h *Header) inFile(what string, off uint64, n, fileSize int64) error {
	switch {
	case n == 0:
		return nil
	case off%uint64(h.ClusterSize()) != 0 || off == 0:
		return corrupt("the %s is at %#x, where no cluster begins", what, off)
	case off > uint64(fileSize) || n > fileSize-int64(off):
		return corrupt("the %s (%d bytes at %#x) is not within the file's %d bytes", what, n, off, fileSize)
	}
	return nil
}

// readFeatures refuses what we do not know. The feature names come from the image's own table.
func (h *Header) readFeatures(b []byte, length int64) error {
	h.Dirty, h.Corrupt = h.incompat&incompatDirty != 0, h.incompat&incompatCorrupt != 0
	if unknown := h.incompat &^ incompatKnown; unknown != 0 {
		names := featureNames(b[:min(h.ClusterSize(), int64(len(b)))], length, unknown)
		return &UnsupportedError{"incompatible feature " + strings.Join(names, ", ")}
	}
	if h.incompat&incompatDataFile != 0 {
		return &UnsupportedError{"an external data file"}
	}
	if h.Version == 3 && length > headerSize3 {
		h.Compression = Compression(b[headerSize3])
	}
	if h.incompat&incompatCompression == 0 && h.Compression != Zlib {
		return corrupt("compression type %d without its feature bit", h.Compression)
	}
	if h.Compression > Zstd {
		return &UnsupportedError{fmt.Sprintf("compression type %d", h.Compression)}
	}
	return nil
}

// extensions calls do for each header extension.
func extensions(b []byte, at int64, do func(kind uint32, data []byte)) error {
	for at+8 <= int64(len(b)) {
		kind, n := binary.BigEndian.Uint32(b[at:]), int64(binary.BigEndian.Uint32(b[at+4:]))
		if kind == extensionEnd {
			return nil
		}
		if at += 8; n > int64(len(b))-at {
			return corrupt("header extension %#x of %d bytes does not fit into the header", kind, n)
		}
		do(kind, b[at:at+n])
		at += (n + 7) &^ 7
	}
	return nil
}

func (h *Header) readExtensions(b []byte, length int64) error {
	if off := binary.BigEndian.Uint64(b[8:]); off >= uint64(length) && off < uint64(len(b)) {
		b = b[:off] // the backing file's name ends the extensions
	}
	return extensions(b, length, func(kind uint32, data []byte) {
		if kind == extensionBacking {
			h.BackingFormat = string(data)
		}
	})
}

func featureNames(b []byte, length int64, bits uint64) []string {
	names := map[int]string{}
	_ = extensions(b, length, func(kind uint32, data []byte) {
		for ; kind == extensionFeatures && len(data) >= featureNameSize; data = data[featureNameSize:] {
			if name, _, _ := bytes.Cut(data[2:featureNameSize], []byte{0}); data[0] == 0 {
				names[int(data[1])] = strings.ToValidUTF8(string(name), "?")
			}
		}
	})
	var out []string
	for i := range 64 {
		if bits>>i&1 == 0 {
			continue
		}
		if n := names[i]; n != "" {
			out = append(out, fmt.Sprintf("'%s'", n))
		} else {
			out = append(out, fmt.Sprintf("bit %d", i))
		}
	}
	return out
}

func (h *Header) readBacking(b []byte) error {
	off, n := binary.BigEndian.Uint64(b[8:]), int64(binary.BigEndian.Uint32(b[16:]))
	if off == 0 {
		return nil
	}
	if n > maxBackingName || off > uint64(len(b)) || n > int64(len(b))-int64(off) || int64(off)+n > h.ClusterSize() {
		return corrupt("the backing file's name (%d bytes at %#x) is not within the header's cluster", n, off)
	}
	h.BackingFile = string(b[off : int64(off)+n])
	if strings.ContainsAny(h.BackingFile, "\x00\n") {
		return corrupt("the backing file's name has a zero byte or a line's end in it")
	}
	return nil
}

func divUp(n, by int64) int64 { return (n + by - 1) / by }

// encode writes the header with its extensions into a buffer of one cluster.
func (h *Header) encode() ([]byte, error) {
	b := make([]byte, h.ClusterSize())
	be := binary.BigEndian
	be.PutUint32(b, magic)
	be.PutUint32(b[4:], uint32(h.Version))
	be.PutUint32(b[20:], uint32(h.ClusterBits))
	be.PutUint64(b[fieldSize:], uint64(h.Size))
	be.PutUint32(b[fieldL1Size:], uint32(h.l1Entries))
	be.PutUint64(b[40:], uint64(h.l1Off))
	be.PutUint64(b[fieldRefTable:], uint64(h.refTableOff))
	be.PutUint32(b[56:], uint32(h.refTableEntries*8/h.ClusterSize()))
	at := headerSize2
	if h.Version == 3 {
		be.PutUint64(b[fieldIncompat:], h.incompat)
		if h.LazyRefcounts {
			be.PutUint64(b[80:], compatLazyRefcounts)
		}
		order := 0
		for 1<<order < h.RefcountBits {
			order++
		}
		be.PutUint32(b[96:], uint32(order))
		be.PutUint32(b[100:], headerBytes)
		b[headerSize3] = byte(h.Compression)
		at = headerBytes
	}
	if h.BackingFormat != "" {
		be.PutUint32(b[at:], extensionBacking)
		be.PutUint32(b[at+4:], uint32(len(h.BackingFormat)))
		copy(b[at+8:], h.BackingFormat)
		at += 8 + (len(h.BackingFormat)+7)&^7
	}
	at += 8 // the end of extensions
	if h.BackingFile != "" {
		if len(h.BackingFile) > maxBackingName || at+len(h.BackingFile) > len(b) {
			return nil, fmt.Errorf("the backing file's name of %d bytes does not fit into a header of %d", len(h.BackingFile), len(b))
		}
		be.PutUint64(b[8:], uint64(at))
		be.PutUint32(b[16:], uint32(len(h.BackingFile)))
		copy(b[at:], h.BackingFile)
	}
	return b, nil
}

// BackingPath is the path of the backing file of an image at path: names in headers are relative to it. "" is none. Names
// that are not a file's, such as nbd://host/export, are an UnsupportedError.
func (h *Header) BackingPath(path string) (string, error) {
	name := h.BackingFile
	if scheme, _, ok := strings.Cut(name, ":"); ok && !strings.Contains(scheme, "/") {
		return "", &UnsupportedError{fmt.Sprintf("the backing file '%s', which is not a file's name", name)}
	}
	if name == "" || filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Join(filepath.Dir(path), name), nil
}
