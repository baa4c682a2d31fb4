package bus

import (
	"bytes"
	"math"
	"testing"
)

type recorder struct {
	off  uint64
	data []byte
}

func (r *recorder) Read(off uint64, p []byte) {
	r.off = off
	for i := range p {
		p[i] = byte(i)
	}
}
func (r *recorder) Write(off uint64, p []byte) { r.off, r.data = off, append([]byte(nil), p...) }

func TestSpace(t *testing.T) {
	var s Space
	a, b := &recorder{}, &recorder{}
	for _, c := range []struct {
		base, size uint64
		dev        Device
		ok         bool
	}{
		{0x100, 8, a, true},
		{0x107, 1, b, false},
		{0x108, 8, b, true},
		{0xff, 2, b, false},
		{0, 0, b, false},
		{math.MaxUint64, 2, b, false},
		{math.MaxUint64, 1, b, true},
	} {
		if err := s.Add(c.base, c.size, c.dev); (err == nil) != c.ok {
			t.Errorf("Add(%#x, %#x): %v", c.base, c.size, err)
		}
	}
	p := make([]byte, 4)
	if !s.Read(0x10c, p) || b.off != 4 || !bytes.Equal(p, []byte{0, 1, 2, 3}) {
		t.Errorf("read at %d gave %v", b.off, p)
	}
	if s.Read(0x110, p) || !bytes.Equal(p, []byte{0xff, 0xff, 0xff, 0xff}) {
		t.Errorf("unclaimed read gave %v", p)
	}
	if !s.Write(0x100, []byte{9}) || a.off != 0 || a.data[0] != 9 {
		t.Errorf("write went to %d: %v", a.off, a.data)
	}
	s.Remove(0x100)
	if s.Write(0x100, []byte{1}) {
		t.Error("removed range still claimed")
	}
	if n := testing.AllocsPerRun(100, func() { s.Read(0x108, p) }); n != 0 {
		t.Errorf("Read allocates %v times", n)
	}
}
