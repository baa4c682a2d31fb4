package blk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block"
	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

const (
	ringAt    = 0x1000
	headerAt  = 0x20000
	statusAt  = 0x21000
	dataAt    = 0x40000
	diskSize  = 1 << 20
	allFeat   = virtio.FeatureEventIdx | virtio.FeatureIndirectDesc | FeatureFlush | FeatureDiscard | FeatureWriteZeroes | FeatureConfigWCE | FeatureMQ
	untouched = 0xee
)

// rig is a disk with one running queue.
type rig struct {
	t    testing.TB
	mem  *memory.Memory
	dev  *Device
	ring *virtiotest.Ring
	tr   *virtiotest.Transport
	path string
}

func newDisk(t testing.TB, o block.Options, cfg Config) (*Device, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, diskSize), 0o600); err != nil {
		t.Fatal(err)
	}
	return openDisk(t, path, o, cfg), path
}

func openDisk(t testing.TB, path string, o block.Options, cfg Config) *Device {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(fd, o)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(img, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newRig(t testing.TB, features uint64, o block.Options, cfg Config) *rig {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "virtio-disk0"
	}
	r := &rig{t: t, mem: virtiotest.NewMemory(t, 1<<20)}
	r.dev, r.path = newDisk(t, o, cfg)
	r.ring = virtiotest.NewRing(t, r.mem, ringAt, 64)
	r.tr = virtiotest.NewTransport(t, r.mem, features, r.ring)
	if err := r.dev.Activate(r.tr.Env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.dev.Reset()
		r.dev.Close()
	})
	return r
}

func header(kind uint32, sector uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, sector)
}

func segment(sector uint64, n, flags uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, sector)
	b = binary.LittleEndian.AppendUint32(b, n)
	return binary.LittleEndian.AppendUint32(b, flags)
}

// offer puts a request into the ring: header, data and status in chains of their usual shape.
func (r *rig) offer(kind uint32, sector uint64, data virtiotest.Buf) uint16 {
	r.mem.WriteAt(header(kind, sector), headerAt)
	r.mem.WriteAt([]byte{untouched}, statusAt)
	bufs := []virtiotest.Buf{{GPA: headerAt, Len: headerSize}}
	if data.Len > 0 {
		bufs = append(bufs, data)
	}
	r.ring.SetUsedEvent(r.ring.UsedIdx())
	return r.ring.Add(append(bufs, virtiotest.Buf{GPA: statusAt, Len: 1, Write: true})...)
}

// do runs one request and returns its status and the used length.
func (r *rig) do(kind uint32, sector uint64, data virtiotest.Buf) (byte, uint32) {
	r.t.Helper()
	r.offer(kind, sector, data)
	r.ring.Kick()
	u := r.ring.WaitUsed(r.t)
	return r.status(), u.Len
}

func (r *rig) status() byte {
	var b [1]byte
	r.mem.ReadAt(b[:], statusAt)
	return b[0]
}

func (r *rig) write(sector uint64, p []byte) byte {
	r.t.Helper()
	r.mem.WriteAt(p, dataAt)
	s, _ := r.do(typeOut, sector, virtiotest.Buf{GPA: dataAt, Len: uint32(len(p))})
	return s
}

func (r *rig) read(sector uint64, n int) (byte, []byte) {
	r.t.Helper()
	r.mem.WriteAt(bytes.Repeat([]byte{untouched}, n), dataAt)
	s, _ := r.do(typeIn, sector, virtiotest.Buf{GPA: dataAt, Len: uint32(n), Write: true})
	p := make([]byte, n)
	r.mem.ReadAt(p, dataAt)
	return s, p
}

func (r *rig) file() []byte {
	r.t.Helper()
	b, err := os.ReadFile(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func everyMode(t *testing.T, f func(t *testing.T, io string)) {
	for _, io := range []string{"io_uring", "threads"} {
		t.Run(io, func(t *testing.T) { f(t, io) })
	}
}

func TestReadWriteFlush(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := newRig(t, allFeat, block.Options{Discard: true}, Config{IO: io, Serial: "S-12345"})
		want := bytes.Repeat([]byte("sector of eight!"), 256)
		if s := r.write(8, want); s != statusOK {
			t.Fatalf("write: status %d", s)
		}
		if s, got := r.read(8, len(want)); s != statusOK || !bytes.Equal(got, want) {
			t.Fatalf("read: status %d", s)
		}
		if s, n := r.do(typeFlush, 0, virtiotest.Buf{}); s != statusOK || n != 1 {
			t.Errorf("flush: status %d, %d bytes", s, n)
		}
		if !bytes.Equal(r.file()[8*512:8*512+len(want)], want) {
			t.Error("file differs")
		}
		if s, n := r.do(typeGetID, 0, virtiotest.Buf{GPA: dataAt, Len: 20, Write: true}); s != statusOK || n != 21 {
			t.Errorf("id: status %d, %d bytes", s, n)
		}
		id := make([]byte, 20)
		r.mem.ReadAt(id, dataAt)
		if string(id) != "S-12345\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" {
			t.Errorf("id %q", id)
		}
		r.mem.WriteAt(segment(8, 8, flagUnmap), dataAt)
		if s, _ := r.do(typeWriteZeroes, 0, virtiotest.Buf{GPA: dataAt, Len: 16}); s != statusOK {
			t.Errorf("write zeroes: status %d", s)
		}
		if s, got := r.read(8, 4096); s != statusOK || !bytes.Equal(got, make([]byte, 4096)) {
			t.Errorf("zeroes: status %d, %x...", s, got[:4])
		}
		r.mem.WriteAt(segment(0, 64, 0), dataAt)
		if s, _ := r.do(typeDiscard, 0, virtiotest.Buf{GPA: dataAt, Len: 16}); s != statusOK {
			t.Errorf("discard: status %d", s)
		}
		got := r.dev.Stats()
		if got.ReadOps != 2 || got.ReadBytes != 8192 || got.WriteOps != 2 || got.WriteBytes != 8192 || got.FlushOps != 1 || got.DiscardOps != 1 || got.Errors != 0 || got.ReadNs == 0 {
			t.Errorf("stats %+v", got)
		}
		if mode := r.dev.Mode(); io == "threads" && mode != block.ModePool {
			t.Errorf("mode %s", mode)
		}
		if err := r.tr.Failure(); err != nil {
			t.Error(err)
		}
	})
}

// TestHeaderSplit spreads header, data and status over descriptors of odd sizes, directly and indirectly.
func TestHeaderSplit(t *testing.T) {
	r := newRig(t, allFeat, block.Options{}, Config{})
	r.mem.WriteAt(header(typeOut, 1), headerAt)
	r.mem.WriteAt(bytes.Repeat([]byte{7}, 1024), headerAt+16) // header and data adjoin
	r.ring.SetUsedEvent(0)
	var bufs []virtiotest.Buf
	for at, end := uint64(headerAt), uint64(headerAt+16+1024); at < end; {
		n := min(uint64(5+len(bufs)*7), end-at)
		bufs = append(bufs, virtiotest.Buf{GPA: at, Len: uint32(n)})
		at += n
	}
	bufs = append(bufs, virtiotest.Buf{GPA: statusAt, Len: 1, Write: true})
	r.ring.Add(bufs...)
	r.ring.Kick()
	r.ring.WaitUsed(t)
	if r.status() != statusOK || !bytes.Equal(r.file()[512:1536], bytes.Repeat([]byte{7}, 1024)) {
		t.Errorf("split write: status %d", r.status())
	}
	r.mem.WriteAt(header(typeIn, 1), headerAt)
	r.mem.WriteAt(make([]byte, 2048), dataAt)
	r.ring.SetUsedEvent(1)
	r.ring.AddIndirect(0x80000, virtiotest.Buf{GPA: headerAt, Len: 1}, virtiotest.Buf{GPA: headerAt + 1, Len: 15},
		virtiotest.Buf{GPA: dataAt, Len: 1000, Write: true}, virtiotest.Buf{GPA: dataAt + 1000, Len: 25, Write: true})
	r.ring.Kick()
	if u := r.ring.WaitUsed(t); u.Len != 1025 {
		t.Errorf("used %d", u.Len)
	}
	got := make([]byte, 1025)
	r.mem.ReadAt(got, dataAt)
	if !bytes.Equal(got[:1024], bytes.Repeat([]byte{7}, 1024)) || got[1024] != statusOK {
		t.Error("data and status in one descriptor: wrong contents")
	}
}

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

func TestLogicalBlock4096(t *testing.T) {
	r := newRig(t, allFeat, block.Options{}, Config{LogicalBlock: 4096})
	for _, c := range []struct {
		sector uint64
		n      uint32
		want   byte
	}{{0, 4096, statusOK}, {0, 512, statusIOErr}, {1, 4096, statusIOErr}, {8, 8192, statusOK}} {
		if s, _ := r.do(typeIn, c.sector, virtiotest.Buf{GPA: dataAt, Len: c.n, Write: true}); s != c.want {
			t.Errorf("%d bytes at sector %d: status %d, want %d", c.n, c.sector, s, c.want)
		}
	}
}

func TestConfigSpace(t *testing.T) {
	d, _ := newDisk(t, block.Options{Discard: true}, Config{Name: "d", Queues: 4, QueueSize: 128, LogicalBlock: 512, PhysBlock: 4096})
	defer d.Close()
	get := func(off, n int) uint64 {
		var b [8]byte
		d.ReadConfig(off, b[:n])
		return binary.LittleEndian.Uint64(b[:])
	}
	for _, c := range []struct {
		name   string
		off, n int
		want   uint64
	}{
		{"capacity", 0, 8, diskSize / 512}, {"seg_max", 12, 4, 126}, {"blk_size", 20, 4, 512}, {"physical_block_exp", 24, 1, 3},
		{"min_io_size", 26, 2, 8}, {"writeback", 32, 1, 1}, {"num_queues", 34, 2, 4}, {"max_discard_sectors", 36, 4, maxRangeSectors},
		{"max_discard_seg", 40, 4, 1}, {"max_write_zeroes_seg", 52, 4, 1}, {"beyond", 60, 8, 0}, {"far beyond", 5000, 4, 0}, {"over the end", 58, 8, 0},
	} {
		if got := get(c.off, c.n); got != c.want {
			t.Errorf("%s is %d, want %d", c.name, got, c.want)
		}
	}
	if f := d.Features(); f&(FeatureMQ|FeatureDiscard|FeatureWriteZeroes|FeatureFlush|FeatureConfigWCE|FeatureSegMax|FeatureTopology|FeatureBlkSize) !=
		FeatureMQ|FeatureDiscard|FeatureWriteZeroes|FeatureFlush|FeatureConfigWCE|FeatureSegMax|FeatureTopology|FeatureBlkSize || f&FeatureRO != 0 {
		t.Errorf("features %#x", f)
	}
	d.WriteConfig(cfgWriteback, []byte{2})
	d.WriteConfig(cfgCapacity, []byte{9, 9, 9, 9})
	if get(32, 1) != 1 || get(0, 8) != diskSize/512 {
		t.Error("wrote what is read-only")
	}
	d.WriteConfig(cfgWriteback, []byte{0})
	if get(32, 1) != 0 {
		t.Error("writeback not switched")
	}
}

// TestDurable: a write is durable by itself in write-through, and for a driver that cannot flush.
func TestDurable(t *testing.T) {
	for _, c := range []struct {
		cache    block.Cache
		features uint64
		wce      int // what the driver writes, -1 nothing
		want     bool
	}{
		{block.CacheWriteback, FeatureFlush, -1, false},
		{block.CacheWriteback, 0, -1, true},
		{block.CacheWriteback, FeatureFlush, 0, true},
		{block.CacheWritethrough, FeatureFlush, -1, true},
		{block.CacheWritethrough, FeatureFlush, 1, false},
		{block.CacheUnsafe, FeatureFlush, 0, false},
		{block.CacheUnsafe, 0, -1, false},
	} {
		d, _ := newDisk(t, block.Options{Cache: c.cache}, Config{Name: "d"})
		if c.wce >= 0 {
			d.WriteConfig(cfgWriteback, []byte{byte(c.wce)})
		}
		mem := virtiotest.NewMemory(t, 1<<20)
		ring := virtiotest.NewRing(t, mem, ringAt, 8)
		mem.WriteAt(header(typeOut, 0), headerAt)
		ring.Add(virtiotest.Buf{GPA: headerAt, Len: 16}, virtiotest.Buf{GPA: dataAt, Len: 512}, virtiotest.Buf{GPA: statusAt, Len: 1, Write: true})
		var r request
		if ok, err := ring.Queue(t).Pop(&r.chain); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if _, done, err := d.parse(&r, c.features); done || err != nil || r.op.Durable != c.want {
			t.Errorf("%+v: durable = %v, %v", c, r.op.Durable, err)
		}
		d.Close()
	}
}

func TestResize(t *testing.T) {
	r := newRig(t, allFeat, block.Options{}, Config{})
	if s, _ := r.do(typeIn, diskSize/512, virtiotest.Buf{GPA: dataAt, Len: 512, Write: true}); s != statusIOErr {
		t.Fatalf("status %d", s)
	}
	if err := r.dev.Resize(2 * diskSize); err != nil {
		t.Fatal(err)
	}
	if r.tr.ConfigChanges() != 1 {
		t.Error("driver not told")
	}
	if s, _ := r.do(typeIn, diskSize/512, virtiotest.Buf{GPA: dataAt, Len: 512, Write: true}); s != statusOK {
		t.Errorf("new space: status %d", s)
	}
	if err := r.dev.Resize(513); err == nil || !strings.Contains(err.Error(), "virtio-disk0") {
		t.Errorf("resize to 513 bytes: %v", err)
	}
}

func TestMultiqueue(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		mem := virtiotest.NewMemory(t, 4<<20)
		d, path := newDisk(t, block.Options{}, Config{Name: "mq", Queues: 4, IO: io})
		defer d.Close()
		var rings []*virtiotest.Ring
		for i := range 4 {
			rings = append(rings, virtiotest.NewRing(t, mem, uint64(ringAt+i*0x4000), 256))
		}
		rings[2] = nil // the driver enables three of four
		tr := virtiotest.NewTransport(t, mem, virtio.FeatureIndirectDesc|FeatureFlush|FeatureMQ, rings...)
		if err := d.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		defer d.Reset()
		const each = 64 // requests a queue, all in flight at once
		for qi, ring := range rings {
			if ring == nil {
				continue
			}
			for i := range each {
				at := uint64(0x100000 + (qi*each+i)*0x1000)
				sector := uint64(qi*each+i) * 4
				mem.WriteAt(header(typeOut, sector), at)
				mem.WriteAt(bytes.Repeat([]byte{byte(1 + qi*each + i)}, 2048), at+0x100)
				ring.Add(virtiotest.Buf{GPA: at, Len: 16}, virtiotest.Buf{GPA: at + 0x100, Len: 2048}, virtiotest.Buf{GPA: at + 0xf00, Len: 1, Write: true})
			}
			ring.Kick()
		}
		for _, ring := range rings {
			for range each {
				if ring != nil {
					ring.WaitUsed(t)
				}
			}
		}
		got, _ := os.ReadFile(path)
		for i := range 4 * each {
			want := byte(1 + i)
			if i/each == 2 {
				want = 0
			}
			if !bytes.Equal(got[i*2048:(i+1)*2048], bytes.Repeat([]byte{want}, 2048)) {
				t.Fatalf("block %d is %d..., want %d", i, got[i*2048], want)
			}
		}
		if s := d.Stats(); s.WriteOps != 3*each {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestResetInFlight resets with requests on their way, many times. Afterwards nothing writes to guest memory.
func TestResetInFlight(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		mem := virtiotest.NewMemory(t, 1<<20)
		d, _ := newDisk(t, block.Options{}, Config{Name: "reset", IO: io})
		defer d.Close()
		mem.WriteAt(header(typeIn, 0), headerAt)
		for range 300 {
			ring := virtiotest.RawRing(mem, ringAt, 64)
			fresh := virtiotest.NewTransport(t, mem, allFeat, ring)
			if err := d.Activate(fresh.Env); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				ring.Add(virtiotest.Buf{GPA: headerAt, Len: 16}, virtiotest.Buf{GPA: dataAt + uint64(i)*0x1000, Len: 4096, Write: true}, virtiotest.Buf{GPA: statusAt, Len: 1, Write: true})
			}
			d.Reset()
			mem.StartDirtyLog()
			used := ring.UsedIdx()
			if ring.UsedIdx() != used || mem.TakeDirty(0)[0] != 0 {
				t.Fatal("something was written after Reset")
			}
			mem.StopDirtyLog()
		}
	})
}

func TestSaveRestore(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := newRig(t, allFeat, block.Options{}, Config{IO: io})
		r.write(0, bytes.Repeat([]byte{1}, 512))
		r.dev.WriteConfig(cfgWriteback, []byte{0})
		r.dev.Quiesce()
		state, err := r.dev.Save()
		if err != nil {
			t.Fatal(err)
		}
		r.mem.WriteAt(bytes.Repeat([]byte{2}, 512), dataAt)
		r.offer(typeOut, 1, virtiotest.Buf{GPA: dataAt, Len: 512})

		next := openDisk(t, r.path, block.Options{}, Config{Name: "next", IO: io})
		defer next.Close()
		if err := next.Restore(state); err != nil {
			t.Fatal(err)
		}
		if next.writeback.Load() {
			t.Error("write-back mode forgotten")
		}
		tr := virtiotest.NewTransport(t, r.mem, allFeat, r.ring)
		tr.Env.Queues[0].SetBase(r.tr.Env.Queues[0].Base())
		if err := next.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		defer next.Reset()
		r.ring.WaitUsed(t)
		if r.status() != statusOK || !bytes.Equal(r.file()[512:1024], bytes.Repeat([]byte{2}, 512)) {
			t.Errorf("request from before: status %d", r.status())
		}
		for _, bad := range []string{"", "{}", `{"version":2}`, `{"version":1,"capacity":5}`} {
			if next.Restore([]byte(bad)) == nil {
				t.Errorf("restored %q", bad)
			}
		}
	})
}

func TestQuiesceResume(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := newRig(t, allFeat, block.Options{}, Config{IO: io})
		for i := range 50 {
			r.dev.Quiesce()
			r.offer(typeIn, uint64(i), virtiotest.Buf{GPA: dataAt, Len: 512, Write: true})
			r.dev.Resume()
			r.ring.WaitUsed(t)
		}
	})
}

func TestRequestDoesNotAllocate(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		mem := virtiotest.NewMemory(t, 1<<20)
		d, _ := newDisk(t, block.Options{}, Config{Name: "allocs", IO: io})
		defer d.Close()
		ring := virtiotest.NewRing(t, mem, ringAt, 64)
		tr := virtiotest.NewTransport(t, mem, allFeat, ring)
		mem.WriteAt(header(typeIn, 0), headerAt)
		mem.WriteAt(header(typeOut, 8), headerAt+64)
		mem.WriteAt(header(typeFlush, 0), headerAt+128)
		for i := range uint16(3) {
			ring.SetDesc(3*i, headerAt+64*uint64(i), 16, virtiotest.Next, 3*i+1)
			ring.SetDesc(3*i+1, dataAt+0x1000*uint64(i), 4096, virtiotest.Next|[]uint16{virtiotest.Write, 0, 0}[i], 3*i+2)
			ring.SetDesc(3*i+2, statusAt+uint64(i), 1, virtiotest.Write, 0)
		}
		w := d.workers[0]
		w.prepare(tr.Env, tr.Env.Queues[0])
		result := make(chan float64)
		w.loop.Start(-1, func() {
			round := func() {
				for i := range uint16(3) {
					ring.Offer(3 * i)
				}
				if err := w.take(); err != nil {
					t.Error(err)
				}
				for w.loop.InFlight() > 0 {
					w.loop.Wait()
					w.reap()
				}
			}
			round()
			result <- testing.AllocsPerRun(300, round)
		})
		if n := <-result; n != 0 {
			t.Errorf("%v allocations for three requests", n)
		}
		w.loop.Stop()
		if s := d.Stats(); s.Errors != 0 || s.ReadOps < 300 || s.FlushOps < 300 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestConfigRefused(t *testing.T) {
	for _, c := range []Config{{Queues: 17}, {Queues: -1}, {QueueSize: 3}, {QueueSize: 2048}, {LogicalBlock: 513}, {LogicalBlock: 8192}, {PhysBlock: 256}, {Serial: strings.Repeat("x", 21)}} {
		fd, err := unix.Open(filepath.Join(t.TempDir(), "f"), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		img, err := block.Open(fd, block.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(img, c); err == nil {
			t.Errorf("accepted %+v", c)
		}
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
