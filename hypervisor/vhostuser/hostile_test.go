package vhostuser_test

import (
	"bytes"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/vhostuser"
	"virtd/hypervisor/vhostuser/vhostusertest"
	"virtd/hypervisor/virtio/virtiotest"
)

// files makes n descriptors to send.
func files(t *testing.T, n int) (fds []int) {
	for range n {
		fd, err := unix.MemfdCreate("hostile", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	return fds
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

type wrongAnswer struct {
	raw  func(request uint32) []byte
	fds  int
	says string
}

const silence = "does not answer"

// wrong are answers that no back end gives to a request.
var wrong = map[string]wrongAnswer{
	"nothing":           {func(uint32) []byte { return nil }, 0, "closed the connection"},
	"half a header":     {func(r uint32) []byte { return vhostusertest.Reply(r, nil)[:5] }, 0, silence},
	"half a payload":    {func(r uint32) []byte { return vhostusertest.Reply(r, make([]byte, 8))[:16] }, 0, silence},
	"short":             {func(r uint32) []byte { return vhostusertest.Reply(r, []byte{1}) }, 0, "1 bytes with 0 descriptors"},
	"long":              {func(r uint32) []byte { return vhostusertest.Reply(r, make([]byte, 400)) }, 0, "400 bytes with 0 descriptors"},
	"oversized":         {func(r uint32) []byte { return vhostusertest.Reply(r, make([]byte, 1<<20)) }, 0, "1048576 bytes"},
	"endless":           {func(r uint32) []byte { return append(vhostusertest.Reply(r, nil)[:8], 0xff, 0xff, 0xff, 0xff) }, 0, "4294967295 bytes"},
	"another version":   {func(r uint32) []byte { return vhostusertest.Message(r, 2|1<<2, make([]byte, 8)) }, 0, "not of version 1"},
	"another request":   {func(r uint32) []byte { return vhostusertest.Reply(r+40, make([]byte, 8)) }, 0, "in place of it"},
	"a request":         {func(r uint32) []byte { return vhostusertest.Message(r, 1, make([]byte, 8)) }, 0, "for a front end to send"},
	"twice":             {func(r uint32) []byte { return bytes.Repeat(vhostusertest.Reply(r, nil), 3) }, 0, ""},
	"descriptors":       {func(r uint32) []byte { return vhostusertest.Reply(r, make([]byte, 8)) }, 2, "2 descriptors"},
	"many descriptors":  {func(r uint32) []byte { return vhostusertest.Reply(r, make([]byte, 8)) }, 60, "more than 8 descriptors"},
	"garbage":           {func(uint32) []byte { return bytes.Repeat([]byte{0xa5}, 64) }, 0, "protocol"},
	"a word of ones":    {func(r uint32) []byte { return vhostusertest.Reply(r, bytes.Repeat([]byte{0xff}, 8)) }, 0, ""},
	"a word of nothing": {func(r uint32) []byte { return vhostusertest.Reply(r, make([]byte, 8)) }, 0, ""},
}

// TestHostileHello: whatever a back end answers first, New fails or succeeds, soon, and nothing stays open.
func TestHostileHello(t *testing.T) {
	for _, request := range []uint32{
		vhostusertest.GetFeatures, vhostusertest.GetProtocolFeatures, vhostusertest.GetQueueNum, vhostusertest.SetOwner, vhostusertest.GetConfig,
	} {
		for name, w := range wrong {
			hello(t, request, name, w)
		}
	}
}

func hello(t *testing.T, request uint32, name string, w wrongAnswer) {
	before := openFiles(t)
	cfg := able()
	cfg.Answer = func(r uint32, _ []byte) ([]byte, []int, bool) {
		if r != request {
			return nil, nil, false
		}
		return w.raw(r), files(t, w.fds), true
	}
	back, conn := vhostusertest.Pair(t, cfg)
	if w.says == silence {
		defer vhostuser.SetPatience(100*time.Millisecond, time.Second, time.Second)()
	}
	b, err := vhostuser.New(conn, -1, vhostuser.Config{Name: "dev0", Queues: 1, ConfigSize: 60})
	switch {
	case err == nil && w.says != "":
		t.Errorf("request %d, %s: accepted", request, name)
	case err == nil:
		b.Close()
	case !strings.Contains(err.Error(), w.says):
		t.Errorf("request %d, %s: %v, want %q", request, name, err, w.says)
	}
	back.Kill()
	if after := openFiles(t); after > before {
		t.Errorf("request %d, %s: %d descriptors before, %d after", request, name, before, after)
	}
}

// TestHostileStart: whatever a back end answers when rings start or stop, the device is taken back soon, and the next back
// end serves it.
func TestHostileStart(t *testing.T) {
	defer vhostuser.SetPatience(time.Minute, time.Minute, 200*time.Millisecond)()
	for _, request := range []uint32{
		vhostusertest.SetFeatures, vhostusertest.SetMemTable, vhostusertest.GetInflightFD, vhostusertest.SetInflightFD, vhostusertest.SetVringNum,
		vhostusertest.SetVringAddr, vhostusertest.SetVringKick, vhostusertest.SetVringEnable, vhostusertest.GetVringBase,
	} {
		for name, w := range wrong {
			cfg := able()
			cfg.Protocol |= vhostusertest.ProtocolInflight
			good := cfg
			cfg.Answer = func(r uint32, _ []byte) ([]byte, []int, bool) {
				if r != request {
					return nil, nil, false
				}
				return w.raw(r), files(t, w.fds), true
			}
			t.Run(name, func(t *testing.T) {
				back, conn := vhostusertest.Pair(t, cfg)
				f := newFixture(t, conn, -1, nil)
				f.start(t)
				f.offer(t, 0, "first")
				f.ring.Kick()
				begin := time.Now()
				f.Stop()
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("request %d: stopping took %v", request, took)
				}
				back.Kill()
				virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
				// What a back end says of its position is its own: a wrong one harms its guest, as all that it does.
				f.queue.SetBase(uint32(f.ring.UsedIdx()))
				f.start(t)
				_, conn = vhostusertest.Pair(t, good)
				if err := f.Replace(conn); err != nil {
					t.Fatalf("request %d: %v", request, err)
				}
				virtiotest.Eventually(t, "all is served", func() bool { return f.ring.UsedIdx() == f.ring.Offered() })
			})
		}
	}
}

// TestSilentBackend: a back end that says nothing any more does not hold a reset of the device up for longer than the
// front end has patience, and neither does one that is still starting.
func TestSilentBackend(t *testing.T) {
	defer vhostuser.SetPatience(time.Minute, time.Minute, 200*time.Millisecond)()
	for _, request := range []uint32{vhostusertest.SetMemTable, vhostusertest.GetVringBase} {
		hang, asked := make(chan struct{}), make(chan struct{}, 1)
		cfg := able()
		cfg.Answer = func(r uint32, _ []byte) ([]byte, []int, bool) {
			if r == request {
				asked <- struct{}{}
				<-hang
			}
			return nil, nil, false
		}
		_, conn := vhostusertest.Pair(t, cfg)
		f := newFixture(t, conn, -1, nil)
		f.start(t)
		if request == vhostusertest.SetMemTable {
			<-asked
		} else {
			f.exchange(t, "one")
		}
		begin := time.Now()
		f.Forget()
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("silence at request %d: a reset took %v", request, took)
		}
		virtiotest.Eventually(t, "it is disconnected", func() bool { return !f.Connected() })
		close(hang)
	}
}

// TestDeathAnywhere: back ends die at each of the requests there are, one after the other; the ring goes on.
func TestDeathAnywhere(t *testing.T) {
	first, conn := vhostusertest.Pair(t, able())
	f := newFixture(t, conn, -1, nil)
	f.start(t)
	f.exchange(t, "first")
	first.Kill()
	gone := func() bool { return !f.Connected() }
	for n := int32(1); ; n++ {
		virtiotest.Eventually(t, "nobody is there", gone)
		var count atomic.Int32
		dying := able()
		dying.Answer = func(uint32, []byte) ([]byte, []int, bool) { return nil, nil, count.Add(1) == n }
		back, conn := vhostusertest.Pair(t, dying)
		f.ring.Kick()
		if f.Replace(conn) == nil {
			virtiotest.Eventually(t, "it serves or dies", func() bool { return gone() || back.Enabled() == 1 })
			f.Stop()
			f.start(t)
			serves := func() bool { // and there is no request under way that may be its last
				before := count.Load()
				time.Sleep(200 * time.Millisecond)
				return back.Enabled() == 1 && count.Load() == before && before < n
			}
			virtiotest.Eventually(t, "it serves or dies", func() bool { return gone() || serves() })
			if !gone() { // it got to the end of all requests there are
				if n < 15 {
					t.Errorf("a back end was to die at request %d and did not", n)
				}
				break
			}
		}
	}
	f.exchange(t, "last")
}

// TestLogIsBounded: back ends that come and go fill no log.
func TestLogIsBounded(t *testing.T) {
	back, conn := vhostusertest.Pair(t, able())
	f := newFixture(t, conn, -1, nil)
	for range 100 {
		back.Kill()
		virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
		back, conn = vhostusertest.Pair(t, able())
		if err := f.Replace(conn); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.log) < 10 || len(f.log) > 30 {
		t.Errorf("%d lines of 200 events", len(f.log))
	}
}
