package blk

import (
	"bytes"
	"encoding/binary"
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
