package net

import (
	"encoding/binary"
	"reflect"
	"sync/atomic"
	"testing"
)

func macTables(unicast, multicast [][6]byte) []byte {
	var out []byte
	for _, table := range [][][6]byte{unicast, multicast} {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(table)))
		for _, mac := range table {
			out = append(out, mac[:]...)
		}
	}
	return out
}

// The host learns what the driver wants to receive: it is told of a change once, and again after it asked.
func TestRxFilter(t *testing.T) {
	var told atomic.Int32
	f := newFixture(t, 1, allNet, func(c *Config) { c.RxFilterChanged = func() { told.Add(1) } })
	if got := f.dev.RxFilter(); !got.Promiscuous || got.MAC != testMAC {
		t.Errorf("before the driver says anything: %+v", got)
	}
	uni, multi := [][6]byte{{2, 1}}, [][6]byte{{1, 0, 0x5e, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 1}}
	mac := [6]byte{2, 0, 0, 0, 0, 9}
	for _, c := range []struct {
		class, cmd byte
		data       []byte
	}{{classRx, rxPromiscuous, []byte{0}}, {classRx, rxAllMulticast, []byte{1}}, {classRx, rxNoBroadcast, []byte{7}},
		{classMAC, macTableSet, macTables(uni, multi)}, {classMAC, macAddrSet, mac[:]}} {
		if f.command(c.class, c.cmd, c.data) != controlOK {
			t.Fatalf("command %d.%d is refused", c.class, c.cmd)
		}
	}
	if n := told.Load(); n != 1 {
		t.Errorf("the host was told %d times without asking", n)
	}
	want := Filter{MAC: mac, AllMulticast: true, NoBroadcast: true, Unicast: uni, Multicast: multi}
	if got := f.dev.RxFilter(); !reflect.DeepEqual(got, want) {
		t.Errorf("filter %+v, want %+v", got, want)
	}
	f.command(classRx, rxAllMulticast, []byte{1}) // as it was
	if n := told.Load(); n != 1 {
		t.Errorf("the host was told of no change")
	}
	f.command(classMAC, macTableSet, macTables(make([][6]byte, maxTable+1), make([][6]byte, maxTable)))
	if got := f.dev.RxFilter(); told.Load() != 2 || !got.UnicastOverflow || len(got.Unicast) != 0 || got.MulticastOverflow || len(got.Multicast) != maxTable {
		t.Errorf("told %d times; %d and %d addresses, overflows %v %v", told.Load(), len(got.Unicast), len(got.Multicast), got.UnicastOverflow, got.MulticastOverflow)
	}
	f.dev.Reset()
	if got := f.dev.RxFilter(); told.Load() != 3 || !got.Promiscuous || got.MAC != testMAC || len(got.Multicast) != 0 {
		t.Errorf("after a reset (told %d times): %+v", told.Load(), got)
	}
}

func TestRxFilterIsSaved(t *testing.T) {
	f := newFixture(t, 1, allNet)
	f.command(classRx, rxPromiscuous, []byte{0})
	f.command(classMAC, macTableSet, macTables([][6]byte{{2, 1}}, [][6]byte{{1, 2}, {1, 3}}))
	want := f.dev.RxFilter()
	f.dev.Quiesce()
	saved, err := f.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	g := newFixture(t, 1, allNet)
	g.dev.Reset()
	if err := g.dev.Restore(saved); err != nil {
		t.Fatal(err)
	}
	if got := g.dev.RxFilter(); !reflect.DeepEqual(got, want) {
		t.Errorf("restored %+v, want %+v", got, want)
	}
	if err := g.dev.Restore([]byte(`{"version":1,"pairs":1}`)); err != nil { // of an engine that kept none
		t.Error(err)
	}
}
