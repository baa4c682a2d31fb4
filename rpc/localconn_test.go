package rpc

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// localPair returns a localConn and its peer.
func localPair(t *testing.T) (*localConn, *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, ok := newLocalConn(accepted).(*localConn)
	if !ok {
		t.Fatal("a unix connection was not taken")
	}
	t.Cleanup(func() {
		c.Close()
		peer.Close()
	})
	return c, peer.(*net.UnixConn)
}

// expectByte reads the one byte that a peer is to send.
func expectByte(t *testing.T, c *localConn, want byte) {
	t.Helper()
	var b [2]byte
	if n, err := c.Read(b[:]); n != 1 || err != nil || b[0] != want {
		t.Fatalf("read %d bytes, %q, %v; want %q", n, b[:n], err, want)
	}
}

// TestLocalConnAfterDeadlines: data that comes while nobody waits any more, as a deadline ended the wait, wakes the next one
// who waits, and what comes after it too.
func TestLocalConnAfterDeadlines(t *testing.T) {
	c, peer := localPair(t)
	var b [1]byte
	for i := range byte(20) {
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("without data: %v", err)
		}
		if i%2 == 0 {
			peer.Write([]byte{i})
			c.SetReadDeadline(time.Time{})
		} else {
			c.SetReadDeadline(time.Time{})
			time.AfterFunc(time.Millisecond, func() { peer.Write([]byte{i}) })
		}
		expectByte(t, c, i)
	}
	peer.Write([]byte("x"))
	c.SetReadDeadline(past)
	if _, err := c.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with data, behind the deadline: %v", err)
	}
	c.SetReadDeadline(time.Now().Add(time.Hour))
	expectByte(t, c, 'x')
	time.AfterFunc(time.Millisecond, func() { c.SetReadDeadline(past) })
	if _, err := c.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("woken by a deadline: %v", err)
	}
}

// TestReadinessKeepsNoEvent: an event that came when a deadline had ended the wait is the next one's, and not lost between the
// connection's epoll set and the poller.
func TestReadinessKeepsNoEvent(t *testing.T) {
	c, peer := localPair(t)
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if err := c.in.wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("without data: %v", err)
	}
	peer.Write([]byte("x"))
	time.Sleep(20 * time.Millisecond) // the poller hears of it, and nobody waits
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if err := c.in.wait(); err != nil {
		t.Errorf("with data: %v", err)
	}
}

// TestLocalConnPingPong: no wakeup is lost between the one who goes to sleep and the one who writes.
func TestLocalConnPingPong(t *testing.T) {
	c, peer := localPair(t)
	const rounds = 20_000
	done := make(chan error, 1)
	go func() {
		var b [1]byte
		for range rounds {
			if _, err := peer.Write(b[:]); err != nil {
				done <- err
				return
			}
			if _, err := io.ReadFull(peer, b[:]); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	c.SetDeadline(time.Now().Add(time.Minute))
	for range rounds {
		expectByte(t, c, 0)
		if _, err := c.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestLocalConnWaitsForRoom: what does not fit into the socket at once arrives whole and in order.
func TestLocalConnWaitsForRoom(t *testing.T) {
	c, peer := localPair(t)
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent[:4<<20])
		for rest := sent[4<<20:]; err == nil && len(rest) > 0; rest = rest[1<<10:] {
			err = newSocket(c).send(rest[:1<<10])
		}
		wrote <- errors.Join(err, c.Close())
	}()
	got, err := io.ReadAll(peer)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes arrived, or others: %v", len(got), len(sent), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// TestLocalConnWriteDeadline: a peer that does not read holds a writer until the deadline, whenever that was set.
func TestLocalConnWriteDeadline(t *testing.T) {
	for name, set := range map[string]func(*localConn){
		"before": func(c *localConn) { c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)) },
		"during": func(c *localConn) {
			time.AfterFunc(20*time.Millisecond, func() { c.SetWriteDeadline(past) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := localPair(t)
			set(c)
			for range 2 { // it stays over
				if _, err := c.Write(make([]byte, 4<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestLocalConnClose ends whoever reads or writes, in whatever way he waits, and tells the peer.
func TestLocalConnClose(t *testing.T) {
	for name, use := range map[string]func(*localConn) error{
		"asleep":  func(c *localConn) error { _, err := c.Read(make([]byte, 1)); return err },
		"writing": func(c *localConn) error { _, err := c.Write(make([]byte, 4<<20)); return err },
		"by itself": func(c *localConn) error {
			for {
				fd, err := c.use()
				if err != nil {
					return err
				}
				waitBriefly(uintptr(fd))
				c.release()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := localPair(t)
			ended := make(chan error, 1)
			go func() { ended <- use(c) }()
			time.Sleep(10 * time.Millisecond)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if err := <-ended; !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) && !errors.Is(err, unix.EPIPE) {
				t.Errorf("ended with %v", err)
			}
			peer.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, peer); err != nil {
				t.Errorf("the peer: %v", err)
			}
			if err := c.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("closed again: %v", err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read afterwards: %v", err)
			}
		})
	}
}

// TestLocalConnKeepsNoDescriptor: a connection has given all of them back when it is closed.
func TestLocalConnKeepsNoDescriptor(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 50 {
		c, peer := localPair(t)
		c.SetWriteDeadline(time.Now().Add(time.Millisecond))
		c.Write(make([]byte, 4<<20)) // waits for room
		c.Close()
		peer.Close()
	}
	if after := count(); after > before+1 { // the poller's own, if this test is the first
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestLocalConnWithoutDescriptors: where the process has none left, the connection stays what it was, and none is lost.
func TestLocalConnWithoutDescriptors(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, spare := range []int{0, 1} {
		peer, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		free := fillDescriptors(t, limit, spare)
		got := newLocalConn(accepted)
		var left int
		for _, fd := range []int{openNull(), openNull()} {
			if fd >= 0 {
				left++
				unix.Close(fd)
			}
		}
		free()
		if got != accepted || left != spare {
			t.Errorf("with %d descriptors to spare it became a %T, and %d are left", spare, got, left)
		}
		if _, err := got.Write([]byte("x")); err != nil {
			t.Error(err)
		}
	}
}

// fillDescriptors takes all that the process may have but for some. The function returned gives them back.
func fillDescriptors(t *testing.T, limit unix.Rlimit, spare int) (free func()) {
	t.Helper()
	low := limit
	low.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var taken []int
	for fd := openNull(); fd >= 0; fd = openNull() {
		taken = append(taken, fd)
	}
	for _, fd := range taken[:spare] {
		unix.Close(fd)
	}
	return func() {
		for _, fd := range taken[spare:] {
			unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
}

// openNull opens something, or returns -1 when there are no descriptors.
func openNull() int {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// TestAlone: one client that asks again and again is alone; several that take turns are not.
func TestAlone(t *testing.T) {
	var a alone
	one, two := &Conn{number: 1}, &Conn{number: 2}
	times := func(c *Conn, n int) (yes int) {
		for range n {
			if a.asks(c) {
				yes++
			}
		}
		return yes
	}
	if n := times(one, 100); n != 100-aloneAfter {
		t.Errorf("one client was alone %d times of 100", n)
	}
	for range 100 {
		if times(two, aloneAfter/2)+times(one, aloneAfter/2) != 0 {
			t.Fatal("clients that take turns count as alone")
		}
	}
}
