package net

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// streamFixture is a device on a stream socket; the far end is a file.
func streamFixture(t testing.TB, edit ...func(*Config)) (*fixture, *os.File) {
	t.Helper()
	ours, theirs := socketPair(t)
	f := newFixture(t, 0, allNet, append(edit, func(c *Config) { c.Streams, c.Stream = true, ours })...)
	return f, theirs
}

func socketPair(t testing.TB) (fd int, far *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	far = os.NewFile(uintptr(fds[1]), "far end")
	far.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() { far.Close() })
	return fds[0], far
}

func framed(frames ...[]byte) []byte {
	var out []byte
	for _, f := range frames {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(f))), f...)
	}
	return out
}

func readFrame(t testing.TB, far io.Reader) []byte {
	t.Helper()
	var n [4]byte
	if _, err := io.ReadFull(far, n[:]); err != nil {
		t.Fatalf("no frame from the device: %v", err)
	}
	p := make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(far, p); err != nil {
		t.Fatalf("a frame of %d bytes from the device: %v", len(p), err)
	}
	return p
}

func TestStreamTransmit(t *testing.T) {
	f, far := streamFixture(t)
	sizes := []int{14, 60, 1514, 9000, maxFrame}
	for _, n := range sizes {
		f.tx(0).Add(f.put(append(make([]byte, headerSize), pattern(n)...)))
	}
	f.tx(0).Kick()
	for _, n := range sizes {
		wantBytes(t, "frame", readFrame(t, far), pattern(n))
	}
	f.tx(0).Add(f.put(make([]byte, headerSize+5))) // no Ethernet header
	f.tx(0).Add(f.put(append(make([]byte, headerSize), pattern(60)...)))
	f.tx(0).Kick()
	wantBytes(t, "frame after a broken one", readFrame(t, far), pattern(60))
	f.wantStats(func(s Stats) bool { return s.TxPackets == 6 && s.TxErrors == 1 && s.TxDropped == 0 })
	if f.dev.Features()&(featureCsum|featureGuestCsum|featureMQ) != 0 {
		t.Errorf("features %#x that a stream cannot have", f.dev.Features())
	}
}

func TestStreamReceive(t *testing.T) {
	for _, features := range []uint64{allNet, allNet &^ featureMrgRxbuf} {
		ours, far := socketPair(t)
		f := newFixture(t, 0, features, func(c *Config) { c.Streams, c.Stream = true, ours })
		var all []byte
		sizes := []int{60, 14, 1514, 9000, 65535, 61}
		for _, n := range sizes {
			all = append(all, framed(pattern(n))...)
		}
		go func() { // in pieces that begin and end anywhere
			for len(all) > 0 {
				n := min(len(all), 1+len(all)%4099)
				far.Write(all[:n])
				all = all[n:]
			}
		}()
		bufs := f.offerRx(0, 6, 70000)
		for _, n := range sizes {
			wantBytes(t, "frame", f.receiveFrame(0, bufs), pattern(n))
		}
		f.wantStats(func(s Stats) bool { return s.RxPackets == 6 && s.RxErrors+s.RxDropped == 0 })
		f.dev.Reset()
	}
}

// Frames wait in the stream for a driver that gives no buffers, and come in order when it does.
func TestStreamStarved(t *testing.T) {
	f, far := streamFixture(t)
	for i := range 20 {
		far.Write(framed(pattern(60 + i)))
	}
	for i := range 20 {
		bufs := f.offerRx(0, 1, 1536)
		wantBytes(t, "frame", f.receiveFrame(0, bufs), pattern(60+i))
	}
}

// A far end that does not read holds the driver up, and nothing is lost when it reads again.
func TestStreamBackpressure(t *testing.T) {
	f, far := streamFixture(t)
	const frames = 2000
	frame := pattern(9000)
	buf := f.put(append(make([]byte, headerSize), frame...))
	var all sync.WaitGroup
	all.Go(func() {
		sent := 0
		for free := ringSize; sent < frames; {
			for ; free > 0 && sent < frames; free-- {
				f.tx(0).Add(buf)
				sent++
			}
			f.tx(0).Kick()
			f.tx(0).WaitUsed(t)
			for free++; ; free++ {
				if _, ok := f.tx(0).Collect(); !ok {
					break
				}
			}
		}
	})
	time.Sleep(50 * time.Millisecond) // the socket is full
	if s := f.dev.Stats(); s.TxPackets >= frames {
		t.Errorf("%d packets left for nowhere", s.TxPackets)
	}
	for i := range frames {
		if got := readFrame(t, far); !bytes.Equal(got, frame) {
			t.Fatalf("frame %d differs", i)
		}
	}
	all.Wait()
	f.wantStats(func(s Stats) bool { return s.TxPackets == frames && s.TxDropped == 0 })
}

// Whatever the far end reads ends with a frame, unless that is longer than what the kernel passes in one piece, and no length
// is in two parts: passt needs that. The socket is small, so that it is full all the time.
func TestStreamWritesWholeFrames(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	s := newStream(fds[0])
	sizes := []int{60, 1514, 14, 9000, 1514, 1514, 65000, 61}
	const rounds = 2000
	var all sync.WaitGroup
	all.Go(func() {
		defer unix.Close(fds[0])
		poll := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLOUT}}
		for i := 0; i < rounds*len(sizes); {
			for ; i < rounds*len(sizes) && s.queued+streamPrefix+maxFrame <= len(s.out); i++ {
				n := sizes[i%len(sizes)]
				binary.BigEndian.PutUint32(s.out[s.queued:], uint32(n))
				s.queued += streamPrefix + n
			}
			if s.flush(); s.queued > 0 {
				unix.Poll(poll, 1000)
			}
		}
		for s.flush(); s.queued > 0 && !s.dead; s.flush() {
			unix.Poll(poll, 1000)
		}
	})
	const room = 1 << 20
	p := make([]byte, room+streamPrefix+maxFrame)
	frames := 0
	for {
		n, err := unix.Read(fds[1], p[:room])
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		full := n == room // and so ends anywhere
		for at := 0; at < n; frames++ {
			for full && n-at < streamPrefix {
				more, err := unix.Read(fds[1], p[n:at+streamPrefix])
				if err != nil || more == 0 {
					t.Fatal("the rest of a length did not come", err)
				}
				n += more
			}
			if n-at < streamPrefix {
				t.Fatalf("%d bytes of a length of 4 came", n-at)
			}
			size := int(binary.BigEndian.Uint32(p[at:]))
			if size != sizes[frames%len(sizes)] {
				t.Fatalf("frame %d has %d bytes", frames, size)
			}
			at += streamPrefix + size
			for at > n {
				if size+streamPrefix <= onePiece && !full {
					t.Fatalf("a frame of %d bytes came in parts", size)
				}
				more, err := unix.Read(fds[1], p[n:at])
				if err != nil || more == 0 {
					t.Fatal("the rest of a frame did not come", err)
				}
				n += more
			}
		}
	}
	all.Wait()
	if frames != rounds*len(sizes) {
		t.Errorf("%d frames came, want %d", frames, rounds*len(sizes))
	}
}

// The far end is not trusted: whatever it sends, the device says that its link is down or goes on.
func TestStreamHostilePeer(t *testing.T) {
	for name, c := range map[string]struct {
		sent []byte
		said string
	}{
		"length of 4 GiB":      {[]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3}, "impossible length"},
		"a byte too long":      {binary.BigEndian.AppendUint32(nil, maxFrame+1), "impossible length"},
		"frames, then garbage": {append(framed(pattern(60), pattern(60)), 0x80, 0, 0, 0), "impossible length"},
		"end":                  {nil, "has ended"},
		"end within a length":  {[]byte{0, 0}, "has ended"},
		"end within a frame":   {framed(pattern(60))[:30], "has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var log strings.Builder
			f, far := streamFixture(t, func(c *Config) {
				c.Log = func(format string, args ...any) { mu.Lock(); defer mu.Unlock(); fmt.Fprintf(&log, format, args...) }
			})
			f.offerRx(0, 8, 1536)
			far.Write(c.sent)
			if c.said == "has ended" {
				far.Close()
			}
			for end := time.Now().Add(10 * time.Second); f.dev.LinkUp(); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the link stays up")
				}
			}
			mu.Lock()
			if !strings.Contains(log.String(), c.said) {
				t.Errorf("log %q does not say %q", log.String(), c.said)
			}
			mu.Unlock()
			f.tx(0).Add(f.put(make([]byte, 100)))
			f.tx(0).Kick()
			f.tx(0).WaitUsed(t) // dropped, not stuck
			again, far := socketPair(t)
			if err := f.dev.Reconnect(again); err != nil || !f.dev.LinkUp() {
				t.Fatalf("another far end: %v, link %v", err, f.dev.LinkUp())
			}
			f.tx(0).Add(f.put(append(make([]byte, headerSize), pattern(99)...)))
			f.tx(0).Kick()
			wantBytes(t, "frame to another far end", readFrame(t, far), pattern(99))
		})
	}
}

// Frames that are none are counted and left out.
func TestStreamShortFrames(t *testing.T) {
	f, far := streamFixture(t)
	bufs := f.offerRx(0, 4, 1536)
	far.Write(framed(nil, pattern(13), pattern(60), nil))
	wantBytes(t, "frame", f.receiveFrame(0, bufs), pattern(60))
	f.wantStats(func(s Stats) bool { return s.RxErrors == 3 && s.RxPackets == 1 })
}

func TestStreamLink(t *testing.T) {
	f, far := streamFixture(t)
	f.dev.SetLink(false)
	f.offerRx(0, 4, 1536)
	far.Write(framed(pattern(60), pattern(70)))
	f.wantStats(func(s Stats) bool { return s.RxDropped == 2 })
	f.tx(0).Add(f.put(make([]byte, 100)))
	f.tx(0).Kick()
	f.tx(0).WaitUsed(t)
	f.dev.SetLink(true)
	f.tx(0).Add(f.put(append(make([]byte, headerSize), pattern(99)...)))
	f.tx(0).Kick()
	wantBytes(t, "the first frame out", readFrame(t, far), pattern(99))
}

func TestStreamRefusals(t *testing.T) {
	fds := [2]int{}
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	if _, err := New(Config{ID: "net0", Streams: true, Stream: fds[0]}); err == nil {
		t.Error("a pipe is taken for a stream socket")
	}
	if _, err := New(Config{ID: "net0", Streams: true, Stream: fds[0], Taps: []int{fds[0]}}); err == nil {
		t.Error("a stream and a tap are taken")
	}
	f, _ := streamFixture(t)
	if err := f.dev.Reconnect(fds[1]); err == nil {
		t.Error("a pipe is taken for another stream socket")
	}
	g := newFixture(t, 1, allNet)
	ours, _ := socketPair(t)
	if err := g.dev.Reconnect(ours); err == nil {
		t.Error("a tap is replaced by a stream socket")
	}
}

func TestStreamDoesNotAllocate(t *testing.T) {
	f, far := streamFixture(t)
	f.dev.Quiesce()
	tp := &f.dev.taps[0]
	rx, tx := f.dev.newReceiver(f.tr.Env.Queues[0], tp), newTransmitter(f.tr.Env.Queues[1], tp)
	out, in := f.put(append(make([]byte, headerSize), pattern(1000)...)), framed(pattern(100), pattern(9000))
	buf := f.rxBuffer(2048)
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	farFD := 0
	raw.Control(func(fd uintptr) { farFD = int(fd) })
	var sink [4096]byte
	var s Stats
	round := func() {
		unix.Write(farFD, in)
		if _, err := rx.receive(2, &s); err != nil {
			t.Fatal(err)
		}
		if _, _, err := tx.transmit(1, false, &s); err != nil {
			t.Fatal(err)
		}
		unix.Read(farFD, sink[:])
	}
	offered, queued := 0, 0
	refill := func() {
		for ; ; offered-- {
			if _, ok := f.rx(0).Collect(); !ok {
				break
			}
		}
		for ; ; queued-- {
			if _, ok := f.tx(0).Collect(); !ok {
				break
			}
		}
		for ; offered < ringSize; offered++ {
			f.rx(0).Add(buf)
		}
		for ; queued < 8; queued++ {
			f.tx(0).Add(out)
		}
	}
	for range 60 { // what grows, grows once
		refill()
		round()
	}
	refill() // the driver's side allocates, so it works ahead of what is measured
	if got := testing.AllocsPerRun(4, round); got != 0 {
		t.Errorf("%v allocations for three packets", got)
	}
	if s.RxPackets < 120 || s.TxPackets < 60 {
		t.Errorf("statistics %+v: not every round moved packets", s)
	}
}

// FuzzStream gives the device's parser arbitrary bytes in arbitrary pieces. It may take no frame longer than there are, and
// what it takes is what a simple reader takes.
func FuzzStream(f *testing.F) {
	f.Add(framed(pattern(60), pattern(1514)), uint16(7))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(1))
	f.Add(framed(pattern(maxFrame), nil, pattern(14)), uint16(4096))
	f.Fuzz(func(t *testing.T, data []byte, piece uint16) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[0])
		defer unix.Close(fds[1])
		s := newStream(fds[0])
		var got [][]byte
		for rest := data; ; {
			frame, e := s.next()
			if e == 0 {
				got = append(got, bytes.Clone(frame))
				continue
			}
			if e != unix.EAGAIN || len(rest) == 0 {
				break
			}
			n, _ := unix.Write(fds[1], rest[:min(len(rest), int(piece)+1)])
			rest = rest[max(n, 0):]
		}
		for i := 0; ; i++ {
			if len(data) < 4 || binary.BigEndian.Uint32(data) > maxFrame || len(data)-4 < int(binary.BigEndian.Uint32(data)) {
				if i != len(got) {
					t.Errorf("%d frames taken, there are %d", len(got), i)
				}
				return
			}
			n := int(binary.BigEndian.Uint32(data))
			if i >= len(got) || !bytes.Equal(got[i], data[4:4+n]) {
				t.Fatalf("frame %d of %d bytes is not what was sent", i, n)
			}
			data = data[4+n:]
		}
	})
}
