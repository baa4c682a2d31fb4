package block

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"virtd/hypervisor/block/qcow2"
)

// newQcow2 makes an image of format qcow2 and opens it; with base, over a raw file of these contents.
func newQcow2(t testing.TB, dir string, s qcow2.Settings, base []byte, o Options) (*Image, string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "image.qcow2")
	f, err := os.Create(path)
	must(err)
	var backing *Image
	if base != nil {
		s.BackingFile, s.BackingFormat = "base", "raw"
		must(os.WriteFile(filepath.Join(dir, "base"), base, 0o600))
		fd, err := unix.Open(filepath.Join(dir, "base"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(err)
		backing, err = Open(fd, Options{ReadOnly: true, Cache: o.Cache})
		must(err)
	}
	must(qcow2.Create(qcow2.OSFile{File: f}, s))
	must(f.Close())
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(err)
	img, err := OpenQcow2(fd, o, backing)
	must(err)
	return img, path
}

// checkFile is what the checker says of an image that was closed.
func checkFile(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := qcow2.Check(qcow2.OSFile{File: f})
	if err != nil || r.Leaks+r.Errors+r.Nonsense != 0 {
		t.Errorf("check: %+v, %v", r, err)
	}
}

// The requests of a guest do to a qcow2 image over a backing file what they do to an array, whatever file system, cache
// mode and engine.
func TestFormatModel(t *testing.T) {
	const size = 512 << 10
	everyWay(t, func(t *testing.T, dir string, o Options, io string) {
		base := make([]byte, size/2)
		for i := range base {
			base[i] = byte(i>>9) | 1
		}
		img, path := newQcow2(t, dir, qcow2.Settings{Size: size, ClusterSize: 8192}, base, o)
		l, err := NewLoop(img, LoopConfig{Name: "test", Depth: 32, IO: io})
		if err != nil {
			t.Fatal(err)
		}
		mem := guestMemory(t, size)
		model := make([]byte, size)
		copy(model, base)
		rapid.Check(t, func(rt *rapid.T) {
			off := rapid.Int64Range(0, size/512-1).Draw(rt, "sector") * 512
			n := rapid.Int64Range(1, min((size-off)/512, 80)).Draw(rt, "sectors") * 512
			code := rapid.SampledFrom([]Code{Read, Read, Write, Write, Write, Flush, WriteZeroes}).Draw(rt, "code")
			op := &Op{Code: code, Off: off, Len: n, Durable: rapid.Bool().Draw(rt, "durable"), Unmap: rapid.Bool().Draw(rt, "unmap")}
			buf := mem[:n]
			if code == Read || code == Write {
				op.Iov = iov(buf)
				if n > 512 && rapid.Bool().Draw(rt, "cut") {
					op.Iov = iov(buf[:512], buf[512:])
				}
			}
			fill := rapid.Byte().Draw(rt, "fill")
			for i := range buf {
				buf[i] = fill + byte(i)
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
		l.Close()
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
		checkFile(t, path)
		if got, err := os.ReadFile(filepath.Join(dir, "base")); err != nil || !bytes.Equal(got, base) {
			t.Errorf("the backing file has changed (%v)", err)
		}
	})
}

// Queues that write, read, zero and discard their own parts at once see their own data only, whatever clusters move.
func TestFormatQueues(t *testing.T) {
	const part, queues = 256 << 10, 4
	img, path := newQcow2(t, t.TempDir(), qcow2.Settings{Size: part * queues, ClusterSize: 4096}, nil, Options{Discard: true})
	var wg sync.WaitGroup
	for q := range queues {
		l, err := NewLoop(img, LoopConfig{Name: "test", Depth: 8})
		if err != nil {
			t.Fatal(err)
		}
		mem, model := guestMemory(t, part), make([]byte, part)
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer l.Close()
			rnd := rand.New(rand.NewPCG(uint64(q), 1))
			for range 400 {
				off := rnd.Int64N(part/512) * 512
				n := min((1+rnd.Int64N(60))*512, part-off)
				op := &Op{Code: []Code{Read, Write, Write, WriteZeroes, Discard, Flush}[rnd.IntN(6)], Off: int64(q)*part + off, Len: n, Unmap: true}
				buf := mem[:n]
				if op.Code == Write {
					for i := range buf {
						buf[i] = byte(q<<6) | byte(rnd.Uint32()&63)
					}
					copy(model[off:], buf)
				}
				if op.Code == Read || op.Code == Write {
					op.Iov = iov(buf)
				}
				switch op.Code {
				case WriteZeroes:
					clear(model[off : off+n])
				case Discard:
					from, to := (off+4095)&^4095, (off+n)&^4095
					if from < to {
						clear(model[from:to])
					}
				}
				run(t, l, op)
				if op.Err != 0 {
					t.Errorf("%v: %v", op.Code, op.Err)
				}
				if op.Code == Read && !bytes.Equal(buf, model[off:off+n]) {
					t.Errorf("queue %d: read %d at %d differs", q, n, off)
					return
				}
			}
		}()
	}
	wg.Wait()
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	checkFile(t, path)
}

// What is allocated is read and written, and zeroes are read, without an allocation of ours.
func TestFormatDoesNotAllocate(t *testing.T) {
	img, _ := newQcow2(t, t.TempDir(), qcow2.Settings{Size: 1 << 20}, nil, Options{})
	defer img.Close()
	l := ownLoop(t, img)
	defer l.Close()
	mem := guestMemory(t, 128<<10)
	run(t, l, &Op{Code: Write, Off: 0, Len: 128 << 10, Iov: iov(mem)}, &Op{Code: Flush})
	result := make(chan float64, 1)
	var op Op
	vec := iov(mem[:4096])
	l.Start(-1, func() {
		n := 0
		result <- testing.AllocsPerRun(300, func() {
			n++
			op = Op{Code: []Code{Read, Write, Read}[n%3], Off: []int64{4096, 64<<10 - 512, 512 << 10}[n%3], Len: 4096, Iov: vec}
			vec[0] = unix.Iovec{Base: &mem[0], Len: 4096}
			l.Submit(&op)
			if op.slow {
				t.Error("went the slow way")
			}
			for l.Next() == nil {
				l.Wait()
			}
		})
	})
	if n := <-result; n != 0 {
		t.Errorf("%v allocations per request", n)
	}
	l.Stop()
}

func TestFormatResizeAndZeroes(t *testing.T) {
	img, path := newQcow2(t, t.TempDir(), qcow2.Settings{Size: 1 << 20}, nil, Options{DetectZeroes: DetectUnmap, Discard: true})
	l := ownLoop(t, img)
	mem := guestMemory(t, 64<<10)
	if err := img.Resize(4 << 20); err != nil || img.Size() != 4<<20 {
		t.Fatalf("size %d: %v", img.Size(), err)
	}
	if err := img.Resize(1 << 20); err == nil {
		t.Error("shrank")
	}
	run(t, l, &Op{Code: Write, Off: 3 << 20, Len: 64 << 10, Iov: iov(mem)}, &Op{Code: Flush})
	if n := blocks(t, path); n > 384<<10 {
		t.Errorf("zeroes take up space: %d bytes", n)
	}
	l.Close()
	if err := img.Close(); err != nil {
		t.Error(err)
	}
	checkFile(t, path)
}

// An image with an entry that cannot be fails requests, says once what is wrong, and is not written to.
func TestFormatReports(t *testing.T) {
	img, path := newQcow2(t, t.TempDir(), qcow2.Settings{Size: 1 << 20}, nil, Options{})
	img.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte{0x80, 0, 0, 0, 0, 0, 2, 0}, 3*64<<10) // the L1 table: an L2 table in the header
	f.Close()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var said []error
	img, err = OpenQcow2(fd, Options{Report: func(err error) { said = append(said, err) }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := ownLoop(t, img)
	mem := guestMemory(t, 4096)
	ops := []*Op{{Code: Read, Len: 512, Iov: iov(mem[:512])}, {Code: Write, Len: 512, Iov: iov(mem[:512])}}
	run(t, l, ops...)
	if ops[0].Err != unix.EIO || ops[1].Err != unix.EIO || len(said) != 1 {
		t.Errorf("%v, %v, %q", ops[0].Err, ops[1].Err, said)
	}
	l.Close()
	img.Close()
}

// ownLoop is a loop that the test closes before the image.
func ownLoop(t testing.TB, img *Image) *Loop {
	t.Helper()
	l, err := NewLoop(img, LoopConfig{Name: "test", Depth: 8})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
