package qcow2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openDisk(t testing.TB, path string, o Options) *Image {
	t.Helper()
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	q, err := Open(OSFile{f}, o)
	must(t, err)
	return q
}

func rawBacking(t testing.TB, path string) Backing {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	n, err := OSFile{f}.Size()
	must(t, err)
	return Raw{OSFile{f}, n}
}

// sample is data of all kinds: random, text that compresses, zeroes.
func sample(n int, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 3))
	p := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		page := p[i:min(i+4096, n)]
		switch rnd.IntN(3) {
		case 0:
			for j := range page {
				page[j] = byte(rnd.Uint32())
			}
		case 1:
			copy(page, strings.Repeat(fmt.Sprintf("line %d\n", i), 512))
		}
	}
	return p
}

// What we write is sound to qemu-img and reads the same there.
func TestPeerReadsOurs(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			dir := t.TempDir()
			f := &memFile{}
			m := newModel(t, l, f, 42)
			must(t, os.WriteFile(filepath.Join(dir, "b"), m.base, 0o600))
			for range often(150) {
				m.step()
			}
			m.compare(0, int64(len(m.want)))
			must(t, m.q.Close())
			image, raw := filepath.Join(dir, "image"), filepath.Join(dir, "raw")
			must(t, os.WriteFile(image, f.b, 0o600))
			must(t, os.WriteFile(raw, m.want, 0o600))
			if l.backing > 0 && l.s.BackingFormat == "" {
				tool(t, "qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "b", "-F", "raw", image) // which newer ones insist on
			}
			tool(t, "qemu-img", "check", "-f", "qcow2", image)
			tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw)
		})
	}
}

// What qemu-img makes of data in every way it has reads the same here, can be written to, and is sound afterwards.
func TestPeersImages(t *testing.T) {
	if testing.Short() {
		t.Skip("many layouts, and nothing in it runs at once")
	}
	const size = 6<<20 + 512
	data := sample(size, 1)
	for _, c := range []struct{ name, options, more string }{
		{"v3", "compat=1.1", ""},
		{"v2", "compat=0.10", ""},
		{"lazy", "lazy_refcounts=on,cluster_size=4096", ""},
		{"refcounts of 1 bit", "refcount_bits=1,cluster_size=512", ""},
		{"refcounts of 64 bits", "refcount_bits=64,cluster_size=1024", ""},
		{"2 MiB", "cluster_size=2M", ""},
		{"extended", "extended_l2=on,cluster_size=128k", ""},
		{"zlib", "compat=1.1", "-c"},
		{"zlib v2", "compat=0.10,cluster_size=4096", "-c"},
		{"zlib 512", "cluster_size=512", "-c"},
		{"zlib 2 MiB", "cluster_size=2M", "-c"},
		{"zstd", "compression_type=zstd", "-c"},
		{"zstd extended", "compression_type=zstd,extended_l2=on,cluster_size=64k", "-c"},
		{"preallocated", "preallocation=metadata", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			raw, image := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
			must(t, os.WriteFile(raw, data, 0o600))
			args := []string{"convert", "-f", "raw", "-O", "qcow2", "-o", c.options}
			if c.more != "" {
				args = append(args, c.more)
			}
			tool(t, "qemu-img", append(args, raw, image)...)
			q := openDisk(t, image, Options{})
			got := make([]byte, size)
			must(t, q.Read(got, 0))
			if !bytes.Equal(got, data) {
				t.Fatal("reads differently")
			}
			rnd := rand.New(rand.NewPCG(7, 7))
			for range often(40) {
				off := rnd.Int64N(size/512) * 512
				n := min((1+rnd.Int64N(200))*512, size-off)
				p := sample(int(n), uint64(off))
				must(t, q.Write(p, off))
				copy(got[off:], p)
			}
			must(t, q.Close())
			must(t, os.WriteFile(raw, got, 0o600))
			tool(t, "qemu-img", "check", "-f", "qcow2", image)
			tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw)
		})
	}
}

// A snapshot that QEMU made keeps what it has when we write.
func TestPeersSnapshots(t *testing.T) {
	for _, options := range []string{"compat=1.1", "compat=0.10,cluster_size=4096", "extended_l2=on", "refcount_bits=2"} {
		t.Run(options, func(t *testing.T) {
			const size = 4 << 20
			dir := t.TempDir()
			image := filepath.Join(dir, "image")
			tool(t, "qemu-img", "create", "-f", "qcow2", "-o", options, image, fmt.Sprint(size))
			q := openDisk(t, image, Options{})
			first := sample(size, 5)
			must(t, q.Write(first, 0))
			must(t, q.Close())
			tool(t, "qemu-img", "snapshot", "-c", "one", image)
			q = openDisk(t, image, Options{})
			second := bytes.Clone(first)
			for i := range int64(10) {
				p := sample(70<<10, uint64(i))
				must(t, q.Write(p, i*400<<10))
				copy(second[i*400<<10:], p)
			}
			must(t, q.WriteZeroes(1<<20, 1<<20, true))
			clear(second[1<<20 : 2<<20])
			must(t, q.Discard(3<<20, 128<<10))
			clear(second[3<<20 : 3<<20+128<<10])
			must(t, q.Close())
			sound(t, OSFile{openFile(t, image)})
			tool(t, "qemu-img", "check", "-f", "qcow2", image)
			raw := filepath.Join(dir, "raw")
			must(t, os.WriteFile(raw, second, 0o600))
			tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw)
			tool(t, "qemu-img", "snapshot", "-a", "one", image)
			must(t, os.WriteFile(raw, first, 0o600))
			tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw)
		})
	}
}

func openFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// qemu-io and we take turns with random writes to one image with a backing chain.
func TestTurnsWithPeer(t *testing.T) {
	const size = 8 << 20
	dir := t.TempDir()
	base, mid, top, raw := filepath.Join(dir, "base"), filepath.Join(dir, "mid"), filepath.Join(dir, "top"), filepath.Join(dir, "raw")
	want := sample(size, 9)
	must(t, os.WriteFile(base, want, 0o600))
	tool(t, "qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "raw", "-o", "cluster_size=4096", mid)
	rnd := rand.New(rand.NewPCG(11, 11))
	write := func(path string, chain func(readOnly bool) Backing, n int) {
		var args []string
		for range n {
			off := rnd.Int64N(size/512) * 512
			n := min((1+rnd.Int64N(300))*512, size-off)
			v := byte(rnd.Uint32())
			args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", v, off, n))
			copy(want[off:], bytes.Repeat([]byte{v}, int(n)))
		}
		tool(t, "qemu-io", append([]string{"-f", "qcow2", path}, args...)...)
		q := openDisk(t, path, Options{Backing: chain(true)})
		for range n {
			off := rnd.Int64N(size/512) * 512
			p := sample(int(min((1+rnd.Int64N(300))*512, size-off)), uint64(off))
			must(t, q.Write(p, off))
			copy(want[off:], p)
		}
		must(t, q.Close())
		tool(t, "qemu-img", "check", "-f", "qcow2", path)
	}
	write(mid, func(bool) Backing { return rawBacking(t, base) }, 20)
	tool(t, "qemu-img", "create", "-f", "qcow2", "-b", mid, "-F", "qcow2", top)
	for range 3 {
		write(top, func(bool) Backing { return openDisk(t, mid, Options{ReadOnly: true, Backing: rawBacking(t, base)}) }, 10)
	}
	must(t, os.WriteFile(raw, want, 0o600))
	tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", top, raw)
}

// Growing shows zeroes, not what a longer backing file has there, and moves the L1 table where it must.
func TestResize(t *testing.T) {
	dir := t.TempDir()
	base, image := filepath.Join(dir, "base"), filepath.Join(dir, "image")
	must(t, os.WriteFile(base, bytes.Repeat([]byte{1}, 2<<20), 0o600))
	tool(t, "qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "raw", "-o", "cluster_size=512", image, "1000448")
	q := openDisk(t, image, Options{Backing: rawBacking(t, base)})
	must(t, q.Resize(64<<20))
	data := sample(1<<20, 8)
	must(t, q.Write(data, 63<<20))
	if err := q.Resize(1 << 20); err == nil {
		t.Error("shrank")
	}
	must(t, q.Close())
	sound(t, OSFile{openFile(t, image)})
	tool(t, "qemu-img", "check", "-f", "qcow2", image)
	want := make([]byte, 64<<20)
	copy(want, bytes.Repeat([]byte{1}, 1000448))
	copy(want[63<<20:], data)
	raw := filepath.Join(dir, "raw")
	must(t, os.WriteFile(raw, want, 0o600))
	tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw)
}

// Preallocated metadata: every cluster has its place, the file has holes.
func TestPreallocate(t *testing.T) {
	for _, s := range []Settings{{Size: 100 << 20}, {Size: 3 << 20, ClusterSize: 512}, {Size: 10<<20 + 512, ExtendedL2: true}} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		must(t, err)
		defer f.Close()
		must(t, Create(OSFile{f}, s))
		q, err := Open(OSFile{f}, Options{})
		must(t, err)
		must(t, q.Preallocate())
		e, ok := q.Map(0, 1<<20, true)
		if !ok || e.Len == 0 {
			t.Error("cannot be written in place")
		}
		must(t, q.Close())
		sound(t, OSFile{f})
		out := tool(t, "qemu-img", "check", "-f", "qcow2", f.Name())
		if !strings.Contains(out, "100.00% allocated") {
			t.Errorf("qemu-img says: %s", out)
		}
	}
}
