package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// edit changes a good image and tells what opening it for writing says.
func TestHostileHeaders(t *testing.T) {
	be := binary.BigEndian
	for _, c := range []struct {
		name string
		edit func(b []byte)
		want string
	}{
		{"magic", func(b []byte) { b[0] = 0 }, "magic number"},
		{"version", func(b []byte) { be.PutUint32(b[4:], 4) }, "version 4"},
		{"cluster bits 8", func(b []byte) { be.PutUint32(b[20:], 8) }, "2^8 bytes"},
		{"cluster bits 63", func(b []byte) { be.PutUint32(b[20:], 63) }, "2^63 bytes"},
		{"size", func(b []byte) { be.PutUint64(b[24:], 1<<63) }, "of size"},
		{"size beyond L1", func(b []byte) { be.PutUint64(b[24:], 1<<50) }, "L1 table of"},
		{"encryption", func(b []byte) { be.PutUint32(b[32:], 2) }, "encryption"},
		{"L1 size", func(b []byte) { be.PutUint32(b[36:], 1<<31) }, "L1 table of"},
		{"L1 beyond the file", func(b []byte) { be.PutUint64(b[40:], 1<<40) }, "not within the file"},
		{"L1 wraps", func(b []byte) { be.PutUint64(b[40:], 1<<64-65536) }, "not within the file"},
		{"L1 unaligned", func(b []byte) { be.PutUint64(b[40:], 513) }, "no cluster begins"},
		{"L1 nowhere", func(b []byte) { be.PutUint64(b[40:], 0) }, "no cluster begins"},
		{"refcount table", func(b []byte) { be.PutUint64(b[48:], 1<<40) }, "not within the file"},
		{"refcount clusters", func(b []byte) { be.PutUint32(b[56:], 1<<31) }, "refcount table of"},
		{"no refcounts", func(b []byte) { be.PutUint32(b[56:], 0) }, "refcount table of"},
		{"snapshots", func(b []byte) { be.PutUint32(b[60:], 1<<31) }, "snapshots"},
		{"refcount order", func(b []byte) { be.PutUint32(b[96:], 7) }, "refcounts of 2^7"},
		{"header length", func(b []byte) { be.PutUint32(b[100:], 1<<31) }, "header of"},
		{"header length odd", func(b []byte) { be.PutUint32(b[100:], 105) }, "header of"},
		{"data file", func(b []byte) { b[79] = incompatDataFile }, "external data file"},
		{"unknown feature", func(b []byte) { b[72] = 0x80 }, "incompatible feature bit 63"},
		{"corrupt", func(b []byte) { b[79] = incompatCorrupt }, "marked so"},
		{"compression", func(b []byte) { b[104] = 1 }, "without its feature bit"},
		{"compression type", func(b []byte) { b[79], b[104] = incompatCompression, 2 }, "compression type 2"},
		{"extension", func(b []byte) { be.PutUint32(b[112:], 0x1234); be.PutUint32(b[116:], 1<<31) }, "header extension"},
		{"backing name", func(b []byte) { be.PutUint64(b[8:], 1<<40); be.PutUint32(b[16:], 10) }, "backing file's name"},
		{"backing length", func(b []byte) { be.PutUint64(b[8:], 200); be.PutUint32(b[16:], 1<<31) }, "backing file's name"},
	} {
		f, _ := create(t, Settings{Size: 1 << 30}, Options{})
		c.edit(f.b)
		_, err := Open(f, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	f, _ := create(t, Settings{Size: 1 << 30}, Options{})
	f.b[72] = 0x80
	be.PutUint32(f.b[112:], extensionFeatures)
	be.PutUint32(f.b[116:], featureNameSize)
	f.b[121] = 63
	copy(f.b[122:], "warp drive")
	_, err := Open(f, Options{})
	if err == nil || !strings.Contains(err.Error(), "incompatible feature 'warp drive'") {
		t.Errorf("named feature: %v", err)
	}
	for n := range int64(200) { // files that end anywhere
		short := &memFile{b: bytes.Clone(f.b[:n])}
		if _, err := Open(short, Options{}); err == nil {
			t.Errorf("a file of %d bytes opens", n)
		}
	}
}

// Entries that point into the header, the tables, or nowhere are errors; the image is marked and not written any more.
func TestHostileEntries(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(q *Image, b []byte, l2 int64)
	}{
		{"data in the header", func(q *Image, b []byte, l2 int64) { binary.BigEndian.PutUint64(b[l2:], 1<<63|512) }},
		{"data in the refcount table", func(q *Image, b []byte, l2 int64) {
			binary.BigEndian.PutUint64(b[l2:], uint64(q.refTableOff)|1<<63)
		}},
		{"L2 table in the header", func(q *Image, b []byte, _ int64) { binary.BigEndian.PutUint64(b[q.l1Off:], 1<<63|512) }},
		{"L2 table unaligned", func(q *Image, b []byte, _ int64) { binary.BigEndian.PutUint64(b[q.l1Off:], 1<<63|(1<<16+512)) }},
	} {
		f, q := create(t, Settings{Size: 1 << 20}, Options{})
		must(t, q.Write(make([]byte, 512), 0))
		must(t, q.Close())
		l2 := int64(binary.BigEndian.Uint64(f.b[q.l1Off:]) & entryOffset)
		c.edit(q, f.b, l2)
		q, err := Open(f, Options{})
		must(t, err)
		var bad *CorruptError
		if err := q.Write([]byte{1}, 0); !errors.As(err, &bad) {
			t.Errorf("%s: write: %v", c.name, err)
		}
		if err := q.Read(make([]byte, 512), 0); !errors.As(err, &bad) {
			t.Errorf("%s: read: %v", c.name, err)
		}
		if err := q.Write([]byte{1}, 900<<10); !errors.As(err, &bad) {
			t.Errorf("%s: another write: %v", c.name, err)
		}
		if f.b[fieldIncompat+7]&incompatCorrupt == 0 {
			t.Errorf("%s: the image is not marked", c.name)
		}
	}
}

// A header or table that is counted as free is not given away, and a table of full blocks does not take for ever.
func TestHostileRefcounts(t *testing.T) {
	f, q := create(t, Settings{Size: 1 << 20, ClusterSize: 4096}, Options{})
	clear(f.b[q.refTable[0] : q.refTable[0]+4096])
	q, err := Open(f, Options{})
	must(t, err)
	var bad *CorruptError
	if err := q.Write([]byte{1}, 0); !errors.As(err, &bad) {
		t.Errorf("free header: %v", err)
	}
	f, q = create(t, Settings{Size: 1 << 20, ClusterSize: 4096}, Options{})
	for i := range f.b[q.refTable[0] : q.refTable[0]+4096] {
		f.b[q.refTable[0]+int64(i)] = 1
	}
	for i := range int64(512) {
		binary.BigEndian.PutUint64(f.b[q.refTableOff+8*i:], uint64(q.refTable[0]))
	}
	q, err = Open(f, Options{})
	must(t, err)
	if err := q.Write([]byte{1}, 0); err == nil && q.top > 64<<20 {
		t.Errorf("full blocks: the file has %d bytes", q.top)
	}
}

// FuzzImage opens whatever it is given and lets it be read, written and checked: no panic, no hang, bounded memory.
func FuzzImage(f *testing.F) {
	for _, s := range []Settings{{Size: 1 << 20, ClusterSize: 512}, {Size: 1 << 20, ClusterSize: 16 << 10, ExtendedL2: true}, {Version: 2, Size: 1 << 18, ClusterSize: 4096}} {
		m := &memFile{}
		must(f, Create(m, s))
		q, err := Open(m, Options{})
		must(f, err)
		must(f, q.Write(bytes.Repeat([]byte{1}, 2048), 1024))
		must(f, q.Close())
		f.Add(m.b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<18 {
			return
		}
		m := &memFile{b: bytes.Clone(b), limit: 4 << 20}
		Check(m)
		if q, err := Open(m, Options{ReadOnly: true}); err == nil {
			q.Read(make([]byte, 4096), 0)
			q.Read(make([]byte, 4096), max(q.Size()-4096, 0))
		}
		if q, err := Open(m, Options{Punch: true}); err == nil && q.Size() > 4096 {
			q.Write([]byte{1, 2, 3}, 512)
			q.WriteZeroes(0, min(q.Size(), 1<<20), true)
			q.Discard(0, min(q.Size(), 1<<20))
			q.Write(bytes.Repeat([]byte{1}, 4096), q.Size()-4096)
			q.Flush()
			q.Resize(q.Size()&^511 + 1<<16)
			q.Close()
		}
		Repair(&memFile{b: bytes.Clone(b), limit: 4 << 20})
	})
}
