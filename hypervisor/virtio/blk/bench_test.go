package blk

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio/virtiotest"
)

// BenchmarkRequests is 4 KiB random I/O through queue, loop and image, from a driver on another thread that waits for
// interrupts as a vCPU would.
func BenchmarkRequests(b *testing.B) {
	for _, place := range []string{"/dev/shm", os.TempDir()} {
		for _, cache := range []block.Cache{block.CacheWriteback, block.CacheNone} {
			for _, io := range []string{"io_uring", "threads"} {
				for _, kind := range []uint32{typeIn, typeOut} {
					for _, depth := range []int{1, 16} {
						name := fmt.Sprintf("%s/%s/%s/%s/depth=%d", filepath.Base(place), cache, io, map[uint32]string{typeIn: "read", typeOut: "write"}[kind], depth)
						b.Run(name, func(b *testing.B) { benchRequests(b, place, cache, io, kind, depth) })
					}
				}
			}
		}
	}
}

func benchRequests(b *testing.B, place string, cache block.Cache, io string, kind uint32, depth int) {
	dir, err := os.MkdirTemp(place, "blk")
	if err != nil {
		b.Skip(err)
	}
	defer os.RemoveAll(dir)
	const size = 64 << 20
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	img, err := block.Open(fd, block.Options{Cache: cache})
	if err != nil {
		b.Skip(err)
	}
	d, err := New(img, Config{Name: "bench", IO: io})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	mem := virtiotest.NewMemory(b, 4<<20)
	ring := virtiotest.NewRing(b, mem, ringAt, 256)
	tr := virtiotest.NewTransport(b, mem, allFeat, ring)
	if err := d.Activate(tr.Env); err != nil {
		b.Fatal(err)
	}
	defer d.Reset()
	flags := uint16(0)
	if kind == typeIn {
		flags = virtiotest.Write
	}
	for i := range uint16(depth) {
		mem.WriteAt(header(kind, 0), headerAt+32*uint64(i))
		ring.SetDesc(3*i, headerAt+32*uint64(i), 16, virtiotest.Next, 3*i+1)
		ring.SetDesc(3*i+1, dataAt+4096*uint64(i), 4096, virtiotest.Next|flags, 3*i+2)
		ring.SetDesc(3*i+2, statusAt+uint64(i), 1, virtiotest.Write, 0)
	}
	var sector [8]byte
	send := func(head uint16) {
		binary.LittleEndian.PutUint64(sector[:], uint64(rand.IntN(size/4096))*8)
		mem.WriteAt(sector[:], headerAt+32*uint64(head/3)+8)
		ring.Offer(head)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range depth {
		send(uint16(3 * i))
	}
	ring.Kick()
	kicks, waits := 0, 0
	for done := 0; done < b.N; {
		u, ok := ring.Collect()
		if !ok {
			if ring.SetUsedEvent(ring.Seen()); ring.UsedIdx() == ring.Seen() {
				waits++
				ring.WaitInterrupt(b)
			}
			continue
		}
		done++
		if send(uint16(u.ID)); ring.WantsKick() {
			kicks++
			ring.Kick()
		}
	}
	b.StopTimer()
	for tr.Env.Queues[0].InFlight() > 0 && ring.UsedIdx() != ring.Offered() {
		runtime.Gosched()
	}
	b.ReportMetric(float64(kicks)/float64(b.N), "kicks/op")
	b.ReportMetric(float64(waits)/float64(b.N), "waits/op")
}
