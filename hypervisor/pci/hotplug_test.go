package pci

import (
	"encoding/binary"
	"testing"
)

// guestSide is a Hotplug and what it told the machine.
type guestSide struct {
	*Hotplug
	notified int
	ejected  []HotplugSlot
	refused  []HotplugSlot
}

func newGuestSide(slots ...HotplugSlot) *guestSide {
	g := &guestSide{}
	g.Hotplug = NewHotplug(HotplugConfig{
		Slots: slots, Notify: func() { g.notified++ },
		Ejected: func(s HotplugSlot) { g.ejected = append(g.ejected, s) },
		Refused: func(s HotplugSlot, _ uint8) { g.refused = append(g.refused, s) },
	})
	return g
}

func (g *guestSide) in(offset uint64) uint32 {
	var p [4]byte
	g.Read(offset, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

func (g *guestSide) out(offset uint64, v uint32) {
	g.Write(offset, binary.LittleEndian.AppendUint32(nil, v))
}

func TestHotplugRoundTrip(t *testing.T) {
	g := newGuestSide(HotplugSlot{3, 0}, HotplugSlot{0, 7})
	for _, at := range []Address{{Bus: 3}, {Slot: 7}} {
		bit := uint32(1) << at.Slot
		g.notified, g.ejected = 0, nil
		g.Occupy(at, true)
		g.Announce(at)
		g.out(HotplugSelect, uint32(at.Bus))
		if up := g.in(HotplugUp); g.notified != 1 || up != bit || g.in(HotplugUp) != 0 {
			t.Errorf("%v: plugged, and the guest got %d events and %#x", at, g.notified, up)
		}
		g.Request(at)
		if down := g.in(HotplugDown); g.notified != 2 || down != bit || g.in(HotplugDown) != 0 {
			t.Errorf("%v: asked to go, and the guest got %d events and %#x", at, g.notified, down)
		}
		if r := g.Requested(); len(r) != 1 || r[0] != (HotplugSlot{at.Bus, at.Slot}) {
			t.Errorf("%v: requested %v", at, r)
		}
		g.out(HotplugEject, bit)
		g.out(HotplugEject, bit) // nothing is there any more
		if len(g.ejected) != 1 || g.ejected[0] != (HotplugSlot{at.Bus, at.Slot}) || len(g.Requested()) != 0 {
			t.Errorf("%v: ejected %v, still requested %v", at, g.ejected, g.Requested())
		}
	}
}

func TestHotplugHostileGuest(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(g *guestSide)
	}{
		{"a slot that is empty", func(g *guestSide) { g.out(HotplugSelect, 1); g.out(HotplugEject, ^uint32(1)) }},
		{"a bus that is not there", func(g *guestSide) { g.out(HotplugSelect, 200); g.out(HotplugEject, ^uint32(0)) }},
		{"a bus beyond all", func(g *guestSide) { g.out(HotplugSelect, 0x101); g.out(HotplugEject, ^uint32(0)) }},
		{"half a register", func(g *guestSide) { g.out(HotplugSelect, 1); g.Write(HotplugEject, []byte{1}) }},
		{"a straddling access", func(g *guestSide) { g.out(HotplugSelect, 1); g.Write(HotplugEject+1, []byte{1, 1, 1, 1}) }},
		{"a device that does not go", func(g *guestSide) {
			g.Occupy(Address{Bus: 1}, false)
			g.Request(Address{Bus: 1})
			g.out(HotplugSelect, 1)
			g.out(HotplugEject, 1)
		}},
		{"a slot of several functions", func(g *guestSide) {
			g.Fix(Address{Bus: 1, Function: 1})
			g.Request(Address{Bus: 1})
			g.out(HotplugSelect, 1)
			g.out(HotplugEject, 1)
		}},
		{"refusing what was not asked", func(g *guestSide) { g.out(HotplugSelect, 1); g.out(HotplugStatus, 3<<8|0x81<<16) }},
		{"refusing another slot", func(g *guestSide) {
			g.Request(Address{Bus: 1})
			g.out(HotplugSelect, 1)
			g.out(HotplugStatus, 9|3<<8|0x81<<16)
		}},
	} {
		g := newGuestSide(HotplugSlot{1, 0})
		g.Occupy(Address{Bus: 1}, true)
		c.do(g)
		if len(g.ejected)+len(g.refused) != 0 {
			t.Errorf("%s: ejected %v, refused %v", c.name, g.ejected, g.refused)
		}
		if g.in(HotplugUp) != 0 {
			t.Errorf("%s: a device came", c.name)
		}
	}
}

func TestHotplugRefusal(t *testing.T) {
	g := newGuestSide(HotplugSlot{1, 0})
	g.Occupy(Address{Bus: 1}, true)
	g.Request(Address{Bus: 1})
	g.out(HotplugSelect, 1)
	g.out(HotplugStatus, 3<<8|0x84<<16) // in progress
	g.out(HotplugStatus, 3<<8)          // success: the ejection itself tells
	if len(g.refused) != 0 || len(g.Requested()) != 1 {
		t.Errorf("refused %v, requested %v", g.refused, g.Requested())
	}
	g.out(HotplugStatus, 3<<8|0x82<<16)
	if len(g.refused) != 1 || len(g.Requested()) != 0 {
		t.Errorf("refused %v, requested %v", g.refused, g.Requested())
	}
}

func TestHotplugWhereNothingCanCome(t *testing.T) {
	g := newGuestSide(HotplugSlot{1, 0})
	for _, at := range []Address{{Slot: 2}, {Bus: 1, Slot: 1}, {Bus: 1, Function: 1}, {Bus: 2}} {
		g.Occupy(at, true)
		g.Announce(at)
		g.Request(at)
		if g.Can(at) || g.notified != 0 {
			t.Errorf("%v can take a device", at)
		}
	}
}

func TestHotplugSaveRestore(t *testing.T) {
	g := newGuestSide(HotplugSlot{1, 0}, HotplugSlot{2, 0})
	g.Occupy(Address{Bus: 1}, true)
	g.Announce(Address{Bus: 1})
	g.Occupy(Address{Bus: 2}, true)
	g.Request(Address{Bus: 2})
	g.out(HotplugSelect, 2)
	state, err := g.Save()
	if err != nil {
		t.Fatal(err)
	}
	again := newGuestSide(HotplugSlot{1, 0}, HotplugSlot{2, 0})
	again.Occupy(Address{Bus: 1}, true)
	again.Occupy(Address{Bus: 2}, true)
	if err := again.Restore(state); err != nil {
		t.Fatal(err)
	}
	if down := again.in(HotplugDown); down != 1 || len(again.Requested()) != 1 {
		t.Errorf("restored: down %#x, requested %v", down, again.Requested())
	}
	again.out(HotplugSelect, 1)
	if up := again.in(HotplugUp); up != 1 {
		t.Errorf("restored: up %#x", up)
	}
	for _, bad := range []string{"", "{}", `{"version":2}`} {
		if err := again.Restore([]byte(bad)); err == nil {
			t.Errorf("restored %q", bad)
		}
	}
}

// FuzzHotplug lets a guest do anything while devices come and are asked to go: only what is there is ejected, once.
func FuzzHotplug(f *testing.F) {
	f.Add([]byte{0x10, 3, 1, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0x08, 3, 1, 0, 0, 0})
	f.Add([]byte{0x14, 3, 1, 3, 0x81, 0, 0x81, 1, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		slots := []HotplugSlot{{0, 5}, {0, 31}, {1, 0}, {255, 0}}
		there := map[HotplugSlot]bool{}
		h := NewHotplug(HotplugConfig{Slots: slots, Notify: func() {}, Refused: func(HotplugSlot, uint8) {},
			Ejected: func(s HotplugSlot) {
				if !there[s] {
					t.Errorf("ejected %v, where nothing is", s)
				}
				delete(there, s)
			}})
		for ; len(ops) >= 6; ops = ops[6:] {
			at := slots[int(ops[1])%len(slots)]
			switch op := ops[0]; {
			case op == 0x80:
				there[at] = true
				h.Occupy(Address{Bus: at.Bus, Slot: at.Slot}, true)
				h.Announce(Address{Bus: at.Bus, Slot: at.Slot})
			case op == 0x82:
				delete(there, at)
				h.Occupy(Address{Bus: at.Bus, Slot: at.Slot}, false)
			case op == 0x81:
				h.Request(Address{Bus: at.Bus, Slot: at.Slot})
			case op&0x40 != 0:
				h.Read(uint64(op&0x3f), make([]byte, 1<<(ops[1]&3)))
			default:
				h.Write(uint64(op&0x3f), ops[2:2+min(4, 1<<(ops[1]&3))])
			}
		}
	})
}
