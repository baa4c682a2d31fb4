package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// filled is a state in which every part is something else.
func filled() *State {
	s := &State{MSRs: []MSR{{Index: 0x10, Value: 1 << 40}, {Index: 0xc0000080, Value: 0xd01}}}
	s.Regs.RIP, s.SRegs.CR3, s.XCRs.NR, s.DebugRegs.DR7 = 0xfff0, 0x1000, 1, 0x400
	s.XSave = make(XSave, 11008) // as a processor with tiles has it
	s.XSave[11007], s.LAPIC.Regs[32], s.Events.NMI.Masked, s.MPState = 9, 8, 1, MPHalted
	return s
}

func TestStateEncoding(t *testing.T) {
	s := filled()
	enc := s.Encode()
	var back State
	if err := back.Decode(enc); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*s, back) {
		t.Errorf("%+v came back as %+v", *s, back)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "cut": enc[:len(enc)-1], "longer": append(bytes.Clone(enc), 0), "another size": append([]byte{1}, enc[1:]...),
		"no MSRs": enc[:len(enc)-36], "no xsave area": enc[:4+144+4+312], "short xsave area": xsaveOf(enc, 4095), "long xsave area": xsaveOf(enc, 1<<20),
	} {
		if err := new(State).Decode(bad); err == nil {
			t.Errorf("%s was decoded", name)
		}
	}
}

// xsaveOf is an encoded state whose xsave area claims to have n bytes.
func xsaveOf(enc []byte, n uint32) []byte {
	bad := bytes.Clone(enc)
	binary.LittleEndian.PutUint32(bad[4+144+4+312:], n)
	return bad
}

// What was encoded before areas of more than 4096 bytes can still be read.
func TestStateOfBefore(t *testing.T) {
	s := filled()
	s.XSave = make(XSave, 4096)
	s.XSave[17] = 1
	var back State
	if err := back.Decode(s.Encode()); err != nil || !reflect.DeepEqual(*s, back) {
		t.Error(err)
	}
}

// A state that this host has no place for is not cut off.
func TestXSaveOfALargerHost(t *testing.T) {
	v := newVCPU(-1, 0, xsaveSize, nil)
	x := make(XSave, 11008)
	x[11007] = 1
	if err := v.SetXSave(x); err == nil || !strings.Contains(err.Error(), "takes 11008 bytes, of which this host has 4096") {
		t.Errorf("got %v", err)
	}
	x[11007] = 0
	if err := v.SetXSave(x); !errors.Is(err, unix.EBADF) { // it reached the kernel
		t.Errorf("got %v", err)
	}
}

func TestChipEncoding(t *testing.T) {
	c := IRQChip{ID: ChipIOAPIC}
	c.State[17] = 3
	back := IRQChip{ID: ChipIOAPIC}
	if err := back.Decode(c.Encode()); err != nil || back != c {
		t.Errorf("%v, %v", back, err)
	}
	if err := (&IRQChip{ID: ChipPICMaster}).Decode(c.Encode()); err == nil {
		t.Error("the IOAPIC became a PIC")
	}
	p := PIT{Flags: 1}
	p.Channels[2].Count = 77
	var q PIT
	if err := q.Decode(p.Encode()); err != nil || q != p {
		t.Errorf("%v, %v", q, err)
	}
	if q.Decode([]byte{1}) == nil || back.Decode([]byte{1}) == nil {
		t.Error("one byte was a state")
	}
}

func FuzzStateDecode(f *testing.F) {
	f.Add(filled().Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s State
		if s.Decode(b) == nil && !bytes.Equal(s.Encode(), b) {
			t.Error("a state that was decoded encodes to something else")
		}
	})
}
