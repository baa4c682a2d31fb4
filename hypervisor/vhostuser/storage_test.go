package vhostuser_test

import (
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/vhostuser"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// storageDaemon is a qemu-storage-daemon that exports an image of 16 MiB.
type storageDaemon struct {
	t     *testing.T
	image string
	sock  string
	cmd   *exec.Cmd
}

func newStorageDaemon(t *testing.T) *storageDaemon {
	t.Helper()
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		t.Skip("needs qemu-storage-daemon, of package qemu-utils or qemu-system-common")
	}
	s := &storageDaemon{t: t, image: filepath.Join(t.TempDir(), "image"), sock: filepath.Join(t.TempDir(), "sock")}
	if err := os.WriteFile(s.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.image, 16<<20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// connect starts the daemon and returns the front end's descriptor. Writes are slow enough to be in flight for a while, and
// end in another order than they begin.
func (s *storageDaemon) connect() int {
	s.t.Helper()
	os.Remove(s.sock)
	s.cmd = exec.Command("qemu-storage-daemon", "--object", "throttle-group,id=t,x-iops-write=1000",
		"--blockdev", "driver=file,node-name=f,filename="+s.image, "--blockdev", "driver=throttle,node-name=slow,throttle-group=t,file=f",
		"--export", "type=vhost-user-blk,id=e,node-name=slow,writable=on,num-queues=2,addr.type=unix,addr.path="+s.sock)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	var c net.Conn
	virtiotest.Eventually(s.t, "the storage daemon listens", func() (ok bool) {
		var err error
		c, err = net.Dial("unix", s.sock)
		return err == nil
	})
	defer c.Close()
	f, err := c.(*net.UnixConn).File()
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		s.t.Fatal(err)
	}
	return fd
}

func (s *storageDaemon) kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// blkOut is the type of a write (virtio 1.2, 5.2.6).
const blkOut = 1

// TestStorageDaemon: a disk of the distribution's qemu-storage-daemon tells its size, and is written while the daemon is
// killed again and again: every request is answered, once, with success, and the image has it all.
func TestStorageDaemon(t *testing.T) {
	s := newStorageDaemon(t)
	gone := make(chan bool, 100)
	d, err := vhostuser.NewBlock(s.connect(), -1, vhostuser.BlockConfig{Name: "disk0", MostQueues: 8, QueueSize: 128, Log: t.Logf,
		Changed: func(on bool) { gone <- !on }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Size() != 16<<20 || d.ReadOnly() || len(d.QueueSizes()) != 2 {
		t.Errorf("%d bytes, read-only %v, %d queues", d.Size(), d.ReadOnly(), len(d.QueueSizes()))
	}
	mem := sharedMemory(t)
	rings := []*virtiotest.Ring{virtiotest.NewRing(t, mem, 0, 128), virtiotest.NewRing(t, mem, 0x8000, 128)}
	tr := virtiotest.NewTransport(t, mem, virtio.FeatureVersion1, rings...)
	if err := d.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer d.Reset()
	const requests, sector = 600, 512
	heads := [2]map[uint32]int{{}, {}} // request of each chain in flight
	ring, next, done := rings[0], 0, 0
	collect := func() {
		for i, r := range rings {
			for u, ok := r.Collect(); ok; u, ok = r.Collect() {
				n, ours := heads[i][u.ID]
				if !ours {
					t.Fatalf("chain %d of queue %d came back, which is not in flight", u.ID, i)
				}
				if status := requestStatus(t, mem, n%64); status != 0 {
					t.Fatalf("request %d: status %d", n, status)
				}
				delete(heads[i], u.ID)
				done++
			}
		}
	}
	for done < requests {
		for next < requests && next-done < 32 && free(heads, next%64) {
			i := next % 2
			ring = rings[i]
			head := offerWrite(t, mem, ring, next)
			heads[i][uint32(head)] = next
			ring.Kick()
			if next++; next%150 == 0 {
				collect()
				s.kill()
				<-gone
				if err := d.Backend().Replace(s.connect()); err != nil {
					t.Fatal(err)
				}
				<-gone
			}
		}
		virtiotest.Eventually(t, "requests come back", func() bool { before := done; collect(); return done > before })
	}
	image, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	for n := range requests {
		if got := binary.LittleEndian.Uint64(image[n*sector:]); got != uint64(n)+1 {
			t.Fatalf("sector %d has %d", n, got)
		}
	}
	if tr.Failure() != nil {
		t.Error(tr.Failure())
	}
}

// free reports whether nothing in flight uses the buffers of a slot.
func free(heads [2]map[uint32]int, slot int) bool {
	for _, h := range heads {
		for _, n := range h {
			if n%64 == slot {
				return false
			}
		}
	}
	return true
}

// slotAt is where a request's header, data and status are: in the second region of RAM.
func slotAt(slot int) uint64 { return 1<<32 + uint64(slot)*1024 }

func offerWrite(t *testing.T, mem *memory.Memory, r *virtiotest.Ring, n int) uint16 {
	t.Helper()
	at := slotAt(n % 64)
	header := make([]byte, 16+512+1)
	binary.LittleEndian.PutUint32(header, blkOut)
	binary.LittleEndian.PutUint64(header[8:], uint64(n))
	binary.LittleEndian.PutUint64(header[16:], uint64(n)+1)
	header[16+512] = 0xff
	if err := mem.WriteAt(header, at); err != nil {
		t.Fatal(err)
	}
	return r.Add(virtiotest.Buf{GPA: at, Len: 16}, virtiotest.Buf{GPA: at + 16, Len: 512}, virtiotest.Buf{GPA: at + 16 + 512, Len: 1, Write: true})
}

func requestStatus(t *testing.T, mem *memory.Memory, slot int) byte {
	t.Helper()
	var b [1]byte
	if err := mem.ReadAt(b[:], slotAt(slot)+16+512); err != nil {
		t.Fatal(err)
	}
	return b[0]
}
