package blk

import (
	"testing"
	"time"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio/virtiotest"
)

// slowest lets two requests go, and the next after hours.
func slowest(t testing.TB) *block.Throttle {
	t.Helper()
	th, err := block.NewThrottle(block.Limits{TotalOps: block.Rate{PerSecond: 1}, TotalBytes: block.Rate{PerSecond: 1, Burst: 4096}})
	if err != nil {
		t.Fatal(err)
	}
	return th
}

// waiting makes a disk with 20 reads, most of which wait for their turn.
func waiting(t *testing.T, io string) *rig {
	r := newRig(t, allFeat, block.Options{}, Config{IO: io})
	r.dev.SetThrottle(slowest(t))
	r.mem.WriteAt(header(typeIn, 0), headerAt)
	r.ring.SetUsedEvent(r.ring.UsedIdx())
	for i := range 20 {
		r.ring.Add(virtiotest.Buf{GPA: headerAt, Len: headerSize}, virtiotest.Buf{GPA: dataAt + uint64(i)*0x1000, Len: 4096, Write: true},
			virtiotest.Buf{GPA: statusAt, Len: 1, Write: true})
	}
	r.ring.Kick()
	virtiotest.Eventually(t, "the first read is answered", func() bool { return r.ring.UsedIdx() > 0 })
	return r
}

// TestThrottledReset: a driver that resets the disk does not wait for what the disk's limits hold back, gets no answer to it
// any more, and can use the disk again.
func TestThrottledReset(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := waiting(t, io)
		r.dev.Reset()
		if n := r.ring.UsedIdx(); n > 3 {
			t.Errorf("%d requests answered, two could be", n)
		}
		if s := r.dev.Stats(); s.Errors != 0 {
			t.Errorf("%d errors", s.Errors)
		}
		r.dev.SetThrottle(nil)
		r.ring = virtiotest.NewRing(t, r.mem, ringAt, 64)
		r.tr = virtiotest.NewTransport(t, r.mem, allFeat, r.ring)
		if err := r.dev.Activate(r.tr.Env); err != nil {
			t.Fatal(err)
		}
		if s, _ := r.read(0, 512); s != statusOK {
			t.Errorf("status %d after the reset", s)
		}
	})
}

// TestThrottledQuiesce: a machine that is paused or saved has no request in the middle of its way; the guest has its answers.
func TestThrottledQuiesce(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := waiting(t, io)
		r.dev.Quiesce()
		if n := r.ring.UsedIdx(); n != 20 {
			t.Errorf("%d of 20 requests answered", n)
		}
		r.dev.Resume()
		// What it got ahead of time it still owes.
		r.offer(typeIn, 0, virtiotest.Buf{GPA: dataAt, Len: 512, Write: true})
		r.ring.Kick()
		time.Sleep(20 * time.Millisecond)
		if n := r.ring.UsedIdx(); n != 20 {
			t.Errorf("request %d was answered at once", n)
		}
		r.dev.SetThrottle(nil)
		virtiotest.Eventually(t, "the last read is answered", func() bool { return r.ring.UsedIdx() == 21 })
	})
}

// TestThrottledClose ends a disk whose requests wait, as when it is detached.
func TestThrottledClose(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := waiting(t, io)
		done := make(chan bool)
		go func() {
			r.dev.Reset()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("Reset waits for requests that are held back")
		}
	})
}
