package net

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Packets do not wake a worker that has no buffers for them; once it has, they do, those that waited and those to come.
func TestStarvedWorkerSleeps(t *testing.T) {
	f := newFixture(t, 1, allNet)
	w := f.dev.data.(threads)[0].workers[0]
	first, second, third := pattern(100), pattern(200), pattern(300)
	f.fromHost(0, first)
	f.wantListening(w, false)
	f.fromHost(0, second)
	bufs := f.offerRx(0, 1, 1600)
	wantBytes(t, "the packet that waited", f.receiveFrame(0, bufs), first)
	bufs = f.offerRx(0, 2, 1600)
	wantBytes(t, "the packet behind it", f.receiveFrame(0, bufs), second)
	f.wantListening(w, true)
	f.fromHost(0, third)
	wantBytes(t, "a packet that finds the worker asleep", f.receiveFrame(0, bufs), third)

	f.fromHost(0, first) // no buffers again
	f.wantListening(w, false)
	f.dev.SetLink(false)
	f.wantStats(func(s Stats) bool { return s.RxDropped == 1 })
	f.wantListening(w, true)
	f.fromHost(0, second)
	f.wantStats(func(s Stats) bool { return s.RxDropped == 2 })
}

// wantListening waits until the worker's epoll set has packets of its tap wake it, or not.
func (f *fixture) wantListening(w *worker, want bool) {
	f.t.Helper()
	var info []byte
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var err error
		if info, err = os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", w.thread.epoll)); err != nil {
			f.t.Fatal(err)
		}
		m := regexp.MustCompile(fmt.Sprintf(`tfd: +%d events: +([0-9a-f]+)`, w.tap.fd)).FindSubmatch(info)
		if m == nil {
			continue
		}
		events, err := strconv.ParseUint(string(m[1]), 16, 32)
		if err != nil {
			f.t.Fatal(err)
		}
		if events&unix.EPOLLIN != 0 == want {
			return
		}
	}
	f.t.Fatalf("the tap does not come to wake the worker: %v\n%s", want, info)
}
