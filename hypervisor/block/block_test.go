package block

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// places are directories on the kinds of file system that take different paths.
func places(t testing.TB) map[string]string {
	t.Helper()
	m := map[string]string{"disk": t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "block"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		m["tmpfs"] = dir
	}
	return m
}

func newImage(t testing.TB, dir string, size int64, o Options) (*Image, string) {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("image%d", os.Getpid()))
	os.Remove(path)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	img, err := Open(fd, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img, path
}

func newLoop(t testing.TB, img *Image, io string) *Loop {
	t.Helper()
	l, err := NewLoop(img, LoopConfig{Name: "test", Depth: 32, IO: io})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// run does ops one after another on the loop.
func run(t testing.TB, l *Loop, ops ...*Op) {
	t.Helper()
	done := make(chan error, 1)
	l.Start(-1, func() {
		for _, op := range ops {
			l.Submit(op)
			for {
				if got := l.Next(); got != nil {
					break
				}
				if err := l.Wait(); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.Stop()
}

// guestMemory is page-aligned memory outside the Go heap.
func guestMemory(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}

func iov(parts ...[]byte) (v []unix.Iovec) {
	for _, p := range parts {
		e := unix.Iovec{Base: &p[0]}
		e.SetLen(len(p))
		v = append(v, e)
	}
	return v
}

// everyWay runs f for each place, cache mode and engine that the host has.
func everyWay(t *testing.T, f func(t *testing.T, dir string, o Options, io string)) {
	for place, dir := range places(t) {
		for _, cache := range []Cache{CacheWriteback, CacheNone, CacheWritethrough, CacheDirectsync, CacheUnsafe} {
			for _, io := range []string{"io_uring", "threads"} {
				t.Run(place+"/"+string(cache)+"/"+io, func(t *testing.T) {
					if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_DIRECT, 0o600); err == nil {
						unix.Close(fd)
					} else if cache == CacheNone || cache == CacheDirectsync {
						t.Skipf("%s has no O_DIRECT: %v", dir, err)
					}
					f(t, dir, Options{Cache: cache, Discard: true}, io)
				})
			}
		}
	}
}

func TestLoopMode(t *testing.T) {
	img, _ := newImage(t, t.TempDir(), 4096, Options{})
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
	if errno == unix.ENOSYS || errno == unix.EPERM {
		t.Skipf("the host has no io_uring: %v", errno)
	}
	if errno == 0 {
		unix.Close(int(fd))
	}
	if mode, err := newLoop(t, img, "").Mode(); mode != ModeUring || err != nil {
		t.Errorf("mode %s: %v", mode, err)
	}
	if mode, err := newLoop(t, img, "threads").Mode(); mode != ModePool || err != nil {
		t.Errorf("mode %s: %v", mode, err)
	}
}

// TestModel compares random requests, aligned and not, with a byte slice.
func TestModel(t *testing.T) {
	const size = 256 << 10
	everyWay(t, func(t *testing.T, dir string, o Options, io string) {
		img, path := newImage(t, dir, size, o)
		l := newLoop(t, img, io)
		mem := guestMemory(t, size)
		model := make([]byte, size)
		rapid.Check(t, func(rt *rapid.T) {
			off := rapid.Int64Range(0, size-1).Draw(rt, "offset")
			n := rapid.Int64Range(1, min(size-off, 40000)).Draw(rt, "length")
			if rapid.Bool().Draw(rt, "sectors") {
				off, n = off&^511, (n+511)&^511
			}
			code := rapid.SampledFrom([]Code{Read, Write, Write, Flush, WriteZeroes}).Draw(rt, "code")
			op := &Op{Code: code, Off: off, Len: n, Durable: rapid.Bool().Draw(rt, "durable"), Unmap: rapid.Bool().Draw(rt, "unmap")}
			at := rapid.IntRange(0, 4096).Draw(rt, "memory")
			cut := rapid.Int64Range(0, n).Draw(rt, "cut")
			if rapid.Bool().Draw(rt, "aligned memory") {
				at, cut = 4096, 0
			}
			buf := mem[at : at+int(n)]
			if code == Read || code == Write {
				op.Iov = iov(buf)
				if cut != 0 && cut != n {
					op.Iov = iov(buf[:cut], buf[cut:])
				}
			}
			if code == Write {
				fill := rapid.Byte().Draw(rt, "fill")
				for i := range buf {
					buf[i] = fill + byte(i)
				}
			}
			run(t, l, op)
			if op.Err != 0 {
				rt.Fatalf("%+v: %v", op, op.Err)
			}
			switch code {
			case Read:
				if !bytes.Equal(buf, model[off:off+n]) {
					rt.Fatalf("read %d at %d differs", n, off)
				}
			case Write:
				copy(model[off:], buf)
			case WriteZeroes:
				clear(model[off : off+n])
			}
		})
		got, err := os.ReadFile(path)
		if err != nil || len(got) < size || !bytes.Equal(got[:size], model) {
			t.Errorf("file differs from the model (%d bytes, %v)", len(got), err)
		}
	})
}

func TestManyInFlight(t *testing.T) {
	everyWay(t, func(t *testing.T, dir string, o Options, io string) {
		img, path := newImage(t, dir, 32*4096, o)
		l := newLoop(t, img, io)
		mem := guestMemory(t, 32*4096)
		done := make(chan int, 1)
		l.Start(-1, func() {
			for i := range 32 {
				for j := range mem[i*4096 : (i+1)*4096] {
					mem[i*4096+j] = byte(i + 1)
				}
				l.Submit(&Op{Code: Write, Off: int64(i) * 4096, Len: 4096, Iov: iov(mem[i*4096 : (i+1)*4096]), Tag: i, Durable: i%2 == 0})
			}
			ok := 0
			for l.InFlight() > 0 {
				for op := l.Next(); op != nil; op = l.Next() {
					if op.Err == 0 {
						ok++
					}
				}
				if l.InFlight() > 0 {
					l.Wait()
				}
			}
			done <- ok
		})
		if ok := <-done; ok != 32 {
			t.Errorf("%d of 32 succeeded", ok)
		}
		l.Stop()
		if got, _ := os.ReadFile(path); !bytes.Equal(got, mem) {
			t.Error("file differs")
		}
	})
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestDiscardGivesSpaceBack(t *testing.T) {
	for place, dir := range places(t) {
		for _, io := range []string{"io_uring", "threads"} {
			for _, on := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/%v", place, io, on), func(t *testing.T) {
					img, path := newImage(t, dir, 1<<20, Options{Discard: on})
					l := newLoop(t, img, io)
					data := bytes.Repeat([]byte{7}, 1<<20)
					run(t, l, &Op{Code: Write, Len: 1 << 20, Iov: iov(data)}, &Op{Code: Flush})
					full := blocks(t, path)
					op := &Op{Code: Discard, Off: 4096, Len: 1<<20 - 4096}
					run(t, l, op, &Op{Code: Flush})
					if op.Err != 0 {
						t.Fatal(op.Err)
					}
					if now := blocks(t, path); on && !img.noPunch.Load() && now >= full || !on && now != full {
						t.Errorf("%d bytes used after discard, %d before", now, full)
					}
				})
			}
		}
	}
}

func TestDetectZeroes(t *testing.T) {
	dir := places(t)["tmpfs"]
	if dir == "" {
		t.Skip("no tmpfs at /dev/shm")
	}
	for mode, want := range map[DetectZeroes]bool{DetectOff: false, DetectUnmap: true} {
		img, path := newImage(t, dir, 1<<20, Options{Discard: true, DetectZeroes: mode})
		l := newLoop(t, img, "")
		run(t, l, &Op{Code: Write, Len: 1 << 20, Iov: iov(make([]byte, 1<<20))})
		if sparse := blocks(t, path) == 0; sparse != want {
			t.Errorf("detect_zeroes %s: sparse = %v", mode, sparse)
		}
		data := make([]byte, 4096)
		data[4095] = 1
		run(t, l, &Op{Code: Write, Len: 4096, Iov: iov(data)})
		if got, _ := os.ReadFile(path); got[4095] != 1 {
			t.Errorf("detect_zeroes %s lost data", mode)
		}
	}
}

func TestReadOfCutFile(t *testing.T) {
	for _, io := range []string{"io_uring", "threads"} {
		img, path := newImage(t, t.TempDir(), 8192, Options{})
		os.WriteFile(path, bytes.Repeat([]byte{1}, 6000), 0o600)
		os.Truncate(path, 6000)
		l := newLoop(t, img, io)
		buf := bytes.Repeat([]byte{9}, 8192)
		op := &Op{Code: Read, Len: 8192, Iov: iov(buf)}
		run(t, l, op)
		if op.Err != 0 || buf[5999] != 1 || buf[6000] != 0 || buf[8191] != 0 {
			t.Errorf("%s: %v, %v", io, op.Err, buf[5990:6010])
		}
	}
}

func TestErrorsSurface(t *testing.T) {
	dir := places(t)["disk"]
	for _, io := range []string{"io_uring", "threads"} {
		img, _ := newImage(t, dir, 1<<20, Options{Cache: CacheWritethrough})
		unix.Close(img.fd) // as when a device goes away
		op, fl := &Op{Code: Write, Len: 512, Iov: iov(make([]byte, 512)), Durable: io == "io_uring"}, &Op{Code: Flush}
		full, err := unix.Open("/dev/full", unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if full != img.fd {
			t.Fatalf("descriptor %d, want %d", full, img.fd)
		}
		run(t, newLoop(t, img, io), op, fl)
		if op.Err != unix.ENOSPC {
			t.Errorf("%s: write to a full device: %v", io, op.Err)
		}
		if fl.Err == 0 {
			t.Errorf("%s: flush of a character device succeeded", io)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	os.WriteFile(path, make([]byte, 512), 0o600)
	for _, c := range []struct {
		name  string
		path  string
		flags int
		o     Options
		want  string
	}{
		{"read-only file", path, unix.O_RDONLY, Options{}, "reading only"},
		{"cache mode", path, unix.O_RDWR, Options{Cache: "sometimes"}, "sometimes"},
		{"detect mode", path, unix.O_RDWR, Options{DetectZeroes: "perhaps"}, "perhaps"},
		{"directory", dir, unix.O_RDONLY, Options{ReadOnly: true}, "not a regular file"},
		{"character device", "/dev/null", unix.O_RDWR, Options{}, "not a regular file"},
	} {
		fd, err := unix.Open(c.path, c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(fd, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if unix.Close(fd) == nil {
			t.Errorf("%s: descriptor left open", c.name)
		}
	}
}

func TestResize(t *testing.T) {
	img, path := newImage(t, t.TempDir(), 4096, Options{})
	if err := img.Resize(8192); err != nil || img.Size() != 8192 {
		t.Errorf("%v, size %d", err, img.Size())
	}
	if st, _ := os.Stat(path); st.Size() != 8192 {
		t.Errorf("file has %d bytes", st.Size())
	}
	if img.Resize(1000) == nil || img.Resize(-512) == nil {
		t.Error("took a size that is none")
	}
}

// TestStopWaits stops a loop in the middle of requests; afterwards none is in flight.
func TestStopWaits(t *testing.T) {
	for _, io := range []string{"io_uring", "threads"} {
		img, _ := newImage(t, t.TempDir(), 1<<20, Options{})
		l := newLoop(t, img, io)
		bufs := guestMemory(t, 32*4096)
		for range 50 {
			started := make(chan bool)
			l.Start(-1, func() {
				for i := range 32 {
					l.Submit(&Op{Code: Read, Off: int64(i) * 4096, Len: 4096, Iov: iov(bufs[i*4096 : (i+1)*4096])})
				}
				close(started)
				for !l.Stopping() {
					l.Wait()
				}
			})
			<-started
			l.Stop()
			if l.InFlight() != 0 && l.done.head != nil {
				t.Fatalf("%s: %d in flight after Stop", io, l.InFlight())
			}
		}
	}
}

func TestRequestDoesNotAllocate(t *testing.T) {
	for place, dir := range places(t) {
		img, _ := newImage(t, dir, 1<<20, Options{})
		l := newLoop(t, img, "")
		data := make([]byte, 4096)
		v := iov(data)
		op := &Op{}
		result := make(chan float64)
		l.Start(-1, func() {
			result <- testing.AllocsPerRun(500, func() {
				for _, code := range []Code{Read, Write, Flush} {
					*op = Op{Code: code, Iov: append(op.Iov[:0], v...), Len: 4096}
					for l.Submit(op); l.Next() == nil; {
						l.Wait()
					}
					op.Iov = v[:0]
					v[0].Base = &data[0]
					v[0].SetLen(4096)
					v = v[:1]
				}
			})
		})
		if n := <-result; n != 0 {
			t.Errorf("%s: %v allocations per request", place, n)
		}
		l.Stop()
	}
}
