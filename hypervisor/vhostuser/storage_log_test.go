package vhostuser_test

import (
	"encoding/binary"
	"testing"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/vhostuser"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// TestStorageDaemonLog: the distribution's qemu-storage-daemon notes the pages that it reads data into, and those of the used
// ring, from the moment that it is asked to while it serves a disk; another that comes after it does so too.
func TestStorageDaemonLog(t *testing.T) {
	s := newStorageDaemon(t)
	gone := make(chan bool, 100)
	d, err := vhostuser.NewBlock(s.connect(), -1, vhostuser.BlockConfig{Name: "disk0", Queues: 1, MostQueues: 1, QueueSize: 128, Log: t.Logf,
		Changed: func(on bool) { gone <- !on }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	mem := sharedMemory(t)
	ring := virtiotest.NewRing(t, mem, 0, 128)
	tr := virtiotest.NewTransport(t, mem, virtio.FeatureVersion1, ring)
	if err := d.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer d.Reset()
	read := func(page uint64) {
		t.Helper()
		header := make([]byte, 16) // a read of sector 0
		binary.LittleEndian.PutUint32(header, 0)
		if err := mem.WriteAt(header, 1<<32); err != nil {
			t.Fatal(err)
		}
		head := ring.Add(virtiotest.Buf{GPA: 1 << 32, Len: 16}, virtiotest.Buf{GPA: page * memory.PageSize, Len: 4096, Write: true},
			virtiotest.Buf{GPA: 1<<32 + 0x1000, Len: 1, Write: true})
		ring.Kick()
		if u := ring.WaitUsed(t); u.ID != uint32(head) {
			t.Fatalf("chain %d came back, not %d", u.ID, head)
		}
	}
	_, _, used := tr.Env.Queues[0].Rings()
	// noted waits until the pages that a read of page has to write are noted, and checks that no other page of data is.
	noted := func(page uint64) {
		t.Helper()
		low, high := make([]uint64, 4), make([]uint64, 4)
		virtiotest.Eventually(t, "data, status and used ring are noted", func() bool {
			for gpa, bitmap := range map[uint64][]uint64{0: low, 1 << 32: high} {
				if err := d.Backend().ReadLog(gpa, 256, bitmap); err != nil {
					t.Fatal(err)
				}
			}
			at := used / memory.PageSize
			return low[at/64]>>(at%64)&1 != 0 && low[page/64]>>(page%64)&1 != 0 && high[0]&2 != 0
		})
		for other := uint64(100); other < 110; other++ {
			if other != page && low[other/64]>>(other%64)&1 != 0 {
				t.Errorf("page %d is noted and was not written", other)
			}
		}
	}

	read(100)
	if err := d.Backend().StartLog(mem); err != nil {
		t.Fatal(err)
	}
	read(101)
	noted(101)
	read(102)
	noted(102)
	s.kill()
	<-gone
	if err := d.Backend().Replace(s.connect()); err != nil {
		t.Fatal(err)
	}
	<-gone
	read(103)
	noted(103)
	if err := d.Backend().StopLog(); err != nil {
		t.Fatal(err)
	}
	read(104)
	if err := d.Backend().StartLog(mem); err != nil {
		t.Fatal(err)
	}
	read(105)
	noted(105)
	if tr.Failure() != nil {
		t.Error(tr.Failure())
	}
}
