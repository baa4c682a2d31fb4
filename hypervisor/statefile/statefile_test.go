package statefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// stream is two sections and three pages, as a machine would write them.
func stream(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte{7}, PageSize)
	for _, step := range []func() error{
		func() error { return w.Section("machine", []byte(`{"a":1}`)) },
		func() error { return w.Section("vcpu/0", nil) },
		func() error { return w.Pages(0x1000, append(page[:PageSize:PageSize], page...)) },
		func() error { return w.Pages(1<<32, page) },
		w.End,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// read returns what a stream says, in one line for each record.
func read(r io.Reader) (names []string, pages map[uint64]int, err error) {
	in, err := NewReader(r)
	if err != nil {
		return nil, nil, err
	}
	pages = map[uint64]int{}
	for {
		rec, err := in.Next()
		if err == io.EOF {
			return names, pages, nil
		}
		if err != nil {
			return names, pages, err
		}
		if rec.Section != "" {
			names = append(names, rec.Section+"="+string(rec.Data))
		} else {
			pages[rec.GPA] = len(rec.Data)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	tail := "what follows"
	in := bytes.NewReader(append(stream(t), tail...))
	names, pages, err := read(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 2 || names[0] != `machine={"a":1}` || names[1] != "vcpu/0=" {
		t.Errorf("sections %q", names)
	}
	if len(pages) != 2 || pages[0x1000] != 2*PageSize || pages[1<<32] != PageSize {
		t.Errorf("pages %v", pages)
	}
	if rest, _ := io.ReadAll(in); string(rest) != tail {
		t.Errorf("the reader left %q", rest)
	}
}

// TestEveryCut: a stream that is cut anywhere is said to be cut, and nothing else.
func TestEveryCut(t *testing.T) {
	whole := stream(t)
	for n := 0; n < len(whole); n += 1 + n/64 {
		if _, _, err := read(bytes.NewReader(whole[:n])); !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

// TestEveryFlip: no single wrong bit goes unnoticed.
func TestEveryFlip(t *testing.T) {
	whole := stream(t)
	for n := 0; n < len(whole); n++ {
		if n >= 12 && n < preambleSize {
			continue // reserved
		}
		if n > 200 && n%97 != 0 && n < len(whole)-100 {
			continue // inside pages
		}
		bad := bytes.Clone(whole)
		bad[n] ^= 1 << (n % 8)
		if _, _, err := read(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d changed, and nobody noticed", n)
		}
	}
}

func TestRecordsStayInPlace(t *testing.T) {
	whole := stream(t)
	first := recordHead + 2 + len("machine") + len(`{"a":1}`)
	second := recordHead + 2 + len("vcpu/0")
	a, b, rest := whole[preambleSize:preambleSize+first], whole[preambleSize+first:preambleSize+first+second], whole[preambleSize+first+second:]
	for name, parts := range map[string][][]byte{
		"swapped":  {b, a, rest},
		"missing":  {a, rest},
		"repeated": {a, a, b, rest},
	} {
		bad := append(whole[:preambleSize:preambleSize], bytes.Join(parts, nil)...)
		if _, _, err := read(bytes.NewReader(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	version := stream(t)
	binary.LittleEndian.PutUint32(version[8:], Version+1)
	for name, b := range map[string][]byte{"nothing of ours": []byte("LibvirtQemudSave and more"), "a newer version": version} {
		if _, _, err := read(bytes.NewReader(b)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w, err := NewWriter(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"no name":        w.Section("", nil),
		"long name":      w.Section(string(make([]byte, maxName+1)), nil),
		"large section":  w.Section("a", make([]byte, MaxSection+1)),
		"no page":        w.Pages(0, nil),
		"half a page":    w.Pages(0, make([]byte, PageSize/2)),
		"crooked page":   w.Pages(1, make([]byte, PageSize)),
		"too many pages": w.Pages(0, make([]byte, (MaxPages+1)*PageSize)),
		"late section":   errors.Join(w.Pages(0, make([]byte, PageSize)), w.Section("a", nil)),
	} {
		if err == nil {
			t.Errorf("%s was written", name)
		}
	}
}

func FuzzReader(f *testing.F) {
	whole := stream(f)
	f.Add(whole[:200])
	f.Add(whole[:preambleSize])
	f.Add([]byte(magic + "\x01\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x10\x00\x00\x00"))
	small := append([]byte(nil), whole[:preambleSize]...)
	end := make([]byte, endSize)
	small = binary.LittleEndian.AppendUint32(small, kindEnd)
	small = binary.LittleEndian.AppendUint32(small, endSize)
	small = binary.LittleEndian.AppendUint32(small, checksum(0, kindEnd, end))
	f.Add(append(small, end...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, pages, err := read(bytes.NewReader(b))
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTruncated) {
			t.Fatalf("an error of no kind: %v", err)
		}
		for gpa, n := range pages {
			if gpa%PageSize != 0 || n%PageSize != 0 || n > len(b) {
				t.Fatalf("%d bytes at %#x out of %d", n, gpa, len(b))
			}
		}
	})
}
