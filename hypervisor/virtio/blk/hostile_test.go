package blk

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio/virtiotest"
)

// TestHostileRequests has the cases e) of a block device. The device answers with a status and goes on.
func TestHostileRequests(t *testing.T) {
	const sectors = diskSize / 512
	in, out := virtiotest.Buf{GPA: dataAt, Len: 512, Write: true}, virtiotest.Buf{GPA: dataAt, Len: 512}
	for _, c := range []struct {
		name     string
		readOnly bool
		kind     uint32
		sector   uint64
		data     virtiotest.Buf
		segment  []byte
		want     byte
	}{
		{"last sector", false, typeIn, sectors - 1, in, nil, statusOK},
		{"beyond the end", false, typeIn, sectors, in, nil, statusIOErr},
		{"over the end", false, typeIn, sectors - 1, virtiotest.Buf{GPA: dataAt, Len: 1024, Write: true}, nil, statusIOErr},
		{"sector times 512 wraps", false, typeIn, 1 << 55, in, nil, statusIOErr},
		{"sector 2^64-1", false, typeOut, 1<<64 - 1, out, nil, statusIOErr},
		{"half a sector", false, typeIn, 0, virtiotest.Buf{GPA: dataAt, Len: 100, Write: true}, nil, statusIOErr},
		{"write of nothing", false, typeOut, 0, virtiotest.Buf{}, nil, statusOK},
		{"read into readable memory", false, typeIn, 0, out, nil, statusOK}, // no room: reads nothing
		{"write to a read-only disk", true, typeOut, 0, out, nil, statusIOErr},
		{"read of a read-only disk", true, typeIn, 0, in, nil, statusOK},
		{"flush of a read-only disk", true, typeFlush, 0, virtiotest.Buf{}, nil, statusOK},
		{"zeroes to a read-only disk", true, typeWriteZeroes, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(0, 1, 0), statusIOErr},
		{"unknown type", false, 99, 0, out, nil, statusUnsupp},
		{"SCSI", false, 2, 0, out, nil, statusUnsupp},
		{"secure erase", false, 14, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(0, 1, 0), statusUnsupp},
		{"short id", false, typeGetID, 0, virtiotest.Buf{GPA: dataAt, Len: 3, Write: true}, nil, statusOK},
		{"discard 2^32-1 sectors", false, typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(0, 1<<32-1, 0), statusIOErr},
		{"discard over the end", false, typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(sectors-1, 2, 0), statusIOErr},
		{"discard wraps", false, typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(1<<64-1, 2, 0), statusIOErr},
		{"discard with unmap", false, typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(0, 1, 1), statusUnsupp},
		{"discard of nothing", false, typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(0, 0, 0), statusOK},
		{"discard without segment", false, typeDiscard, 0, virtiotest.Buf{}, nil, statusIOErr},
		{"short segment", false, typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 15}, segment(0, 1, 0), statusIOErr},
		{"two segments", false, typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 32}, segment(0, 1, 0), statusIOErr},
		{"zeroes overflow", false, typeWriteZeroes, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(1<<55, 8, 0), statusIOErr},
		{"zeroes with unknown flags", false, typeWriteZeroes, 0, virtiotest.Buf{GPA: dataAt, Len: 16}, segment(0, 1, 2), statusUnsupp},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, allFeat, block.Options{ReadOnly: c.readOnly, Discard: true}, Config{})
			r.mem.WriteAt(c.segment, dataAt)
			if got, _ := r.do(c.kind, c.sector, c.data); got != c.want {
				t.Errorf("status %d, want %d", got, c.want)
			}
			if s, _ := r.read(0, 512); s != statusOK {
				t.Errorf("the disk does not go on: status %d", s)
			}
			if err := r.tr.Failure(); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(r.file(), make([]byte, diskSize)) && c.want != statusOK {
				t.Error("a refused request changed the disk")
			}
		})
	}
}

// TestUnanswerableRequests have no header or status. They stop the device, once.
func TestUnanswerableRequests(t *testing.T) {
	for name, bufs := range map[string][]virtiotest.Buf{
		"short header": {{GPA: headerAt, Len: 15}, {GPA: statusAt, Len: 1, Write: true}},
		"no header":    {{GPA: statusAt, Len: 1, Write: true}},
		"no status":    {{GPA: headerAt, Len: 16}},
		"empty status": {{GPA: headerAt, Len: 16}, {GPA: statusAt, Len: 0, Write: true}},
		"outside RAM":  {{GPA: headerAt, Len: 16}, {GPA: 0xfee00000, Len: 512, Write: true}},
		"empty":        {{GPA: headerAt, Len: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, allFeat, block.Options{}, Config{})
			r.ring.Add(bufs...)
			r.ring.Kick()
			r.tr.WaitFailure(t)
			r.ring.Kick()
			r.dev.Reset() // returns
			if r.ring.UsedIdx() != 0 {
				t.Error("answered nevertheless")
			}
		})
	}
}

// FuzzRequests fills ring and headers with random bytes around a valid layout and lets the device work on it.
func FuzzRequests(f *testing.F) {
	chain := func(kind uint32, sector uint64) []byte { return append(header(kind, sector), segment(1, 1, 0)...) }
	for _, kind := range []uint32{typeIn, typeOut, typeFlush, typeGetID, typeDiscard, typeWriteZeroes, 77} {
		f.Add(chain(kind, 3), uint16(16), uint16(512), uint16(1), []byte{0, 1})
	}
	f.Add(chain(typeIn, 1<<63), uint16(3), uint16(0), uint16(0), []byte{5, 0xff})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte, headerLen, dataLen, statusLen uint16, noise []byte) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		d := openDisk(t, path, block.Options{Discard: true, DetectZeroes: block.DetectUnmap}, Config{Name: "fuzz", QueueSize: 16})
		defer d.Close()
		mem := virtiotest.NewMemory(t, 1<<18)
		mem.WriteAt(content[:min(len(content), 4096)], headerAt)
		ring := virtiotest.NewRing(t, mem, ringAt, 16)
		tr := virtiotest.NewTransport(t, mem, allFeat, ring)
		ring.Add(virtiotest.Buf{GPA: headerAt, Len: uint32(headerLen)}, virtiotest.Buf{GPA: 0x22000, Len: uint32(dataLen), Write: dataLen%2 == 0}, virtiotest.Buf{GPA: statusAt, Len: uint32(statusLen % 4096), Write: true})
		ring.Add(virtiotest.Buf{GPA: headerAt, Len: uint32(len(content)) % 64}, virtiotest.Buf{GPA: 0x22000, Len: 513, Write: true})
		for i := 0; i+1 < len(noise) && i < 64; i += 2 { // poke the table
			mem.WriteAt(noise[i+1:i+2], ringAt+uint64(noise[i]))
		}
		if err := d.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		ring.Kick()
		virtiotest.Eventually(t, "the device answers or fails", func() bool { return ring.UsedIdx() >= 2 || tr.Failure() != nil })
		d.Reset()
		if err := tr.Failure(); err != nil && strings.Contains(err.Error(), "panic") {
			t.Fatal(err)
		}
	})
}
