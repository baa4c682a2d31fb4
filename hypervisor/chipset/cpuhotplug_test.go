package chipset

import (
	"encoding/binary"
	"slices"
	"testing"
)

// cpuGuest is the guest's side of a block, and what the machine was told.
type cpuGuest struct {
	*CPUHotplug
	notified         int
	ejected, refused []int
}

func newCPUGuest(n int, there ...int) *cpuGuest {
	g := &cpuGuest{}
	ids := make([]uint32, n)
	for i := range ids {
		ids[i] = uint32(i) + 0x100
	}
	g.CPUHotplug = NewCPUHotplug(CPUHotplugConfig{
		APICIDs: ids, Notify: func() { g.notified++ },
		Ejected: func(cpu int) { g.ejected = append(g.ejected, cpu) },
		Refused: func(cpu int, _ uint32) { g.refused = append(g.refused, cpu) },
	})
	for _, cpu := range there {
		g.Occupy(cpu)
	}
	return g
}

func (g *cpuGuest) out32(offset uint64, v uint32) {
	g.Write(offset, binary.LittleEndian.AppendUint32(nil, v))
}
func (g *cpuGuest) out8(offset uint64, v uint8) { g.Write(offset, []byte{v}) }

func (g *cpuGuest) in32(offset uint64) uint32 {
	var p [4]byte
	g.Read(offset, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

func (g *cpuGuest) flags(cpu uint32) uint8 {
	g.out32(CPUHotplugSelector, cpu)
	var p [1]byte
	g.Read(CPUHotplugFlags, p[:])
	return p[0]
}

// scan does what the DSDT's method does: it takes all events, in the order in which they are found.
func (g *cpuGuest) scan() (came, asked []uint32) {
	g.out32(CPUHotplugSelector, 0)
	for range 2 * len(g.cfg.APICIDs) {
		g.out8(CPUHotplugCommand, CPUCommandNext)
		cpu := g.in32(CPUHotplugData)
		switch f := g.flags(cpu); {
		case f&CPUFlagInserting != 0:
			came = append(came, cpu)
			g.out8(CPUHotplugFlags, CPUFlagInserting)
		case f&CPUFlagRemoving != 0:
			asked = append(asked, cpu)
			g.out8(CPUHotplugFlags, CPUFlagRemoving)
		default:
			return came, asked
		}
	}
	return came, asked
}

func TestCPUHotplugRoundTrip(t *testing.T) {
	g := newCPUGuest(4, 1)
	g.Plug(3)
	g.Plug(2)
	if came, asked := g.scan(); !slices.Equal(came, []uint32{2, 3}) || asked != nil || g.notified != 2 {
		t.Errorf("%d events say that %v came and %v are asked to go", g.notified, came, asked)
	}
	if came, asked := g.scan(); came != nil || asked != nil {
		t.Errorf("told twice: %v, %v", came, asked)
	}
	g.Request(3)
	if came, asked := g.scan(); came != nil || !slices.Equal(asked, []uint32{3}) || !slices.Equal(g.Requested(), []int{3}) {
		t.Errorf("%v came, %v asked, %v requested", came, asked, g.Requested())
	}
	g.flags(3)
	for range 2 { // the second time nothing is there any more
		g.out8(CPUHotplugFlags, CPUFlagEject)
	}
	if !slices.Equal(g.ejected, []int{3}) || len(g.Requested()) != 0 || g.flags(3) != 0 {
		t.Errorf("ejected %v, requested %v, flags %#x", g.ejected, g.Requested(), g.flags(3))
	}
	for cpu, want := range []uint8{1, 1, 1, 0} {
		if got := g.flags(uint32(cpu)); got != want {
			t.Errorf("processor %d has flags %#x, want %#x", cpu, got, want)
		}
	}
	g.out32(CPUHotplugSelector, 2)
	g.out8(CPUHotplugCommand, CPUCommandArchID)
	if id := g.in32(CPUHotplugData); id != 0x102 {
		t.Errorf("processor 2 has APIC ID %#x", id)
	}
	if hi := g.in32(CPUHotplugSelector); hi != 0 {
		t.Errorf("upper half of the ID: %#x", hi)
	}
}

func TestCPUHotplugHostileGuest(t *testing.T) {
	for name, do := range map[string]func(g *cpuGuest){
		"the first one":               func(g *cpuGuest) { g.flags(0); g.out8(CPUHotplugFlags, CPUFlagEject) },
		"one that is not there":       func(g *cpuGuest) { g.flags(2); g.out8(CPUHotplugFlags, CPUFlagEject) },
		"one that cannot be":          func(g *cpuGuest) { g.flags(3); g.out8(CPUHotplugFlags, 0xff) },
		"far beyond":                  func(g *cpuGuest) { g.flags(1<<32 - 1); g.out8(CPUHotplugFlags, 0xff) },
		"four bytes":                  func(g *cpuGuest) { g.flags(1); g.out32(CPUHotplugFlags, CPUFlagEject) },
		"two bytes":                   func(g *cpuGuest) { g.flags(1); g.Write(CPUHotplugFlags, []byte{CPUFlagEject, 0}) },
		"a straddling access":         func(g *cpuGuest) { g.flags(1); g.out32(CPUHotplugFlags-1, 0xffffffff) },
		"nothing at all":              func(g *cpuGuest) { g.Write(CPUHotplugFlags, nil); g.Read(CPUHotplugFlags, nil) },
		"firmware's eject":            func(g *cpuGuest) { g.flags(1); g.out8(CPUHotplugFlags, 1<<4) },
		"enabling":                    func(g *cpuGuest) { g.flags(2); g.out8(CPUHotplugFlags, CPUFlagEnabled) },
		"an unknown command":          func(g *cpuGuest) { g.flags(1); g.out8(CPUHotplugCommand, 200); g.out32(CPUHotplugData, 1) },
		"refusing what was not asked": func(g *cpuGuest) { g.ost(1, 3, 0x81) },
		"refusing for another":        func(g *cpuGuest) { g.Request(1); g.ost(2, 3, 0x81) },
		"another event":               func(g *cpuGuest) { g.Request(1); g.ost(1, 0x103, 0x81) },
		"asking the first to go":      func(g *cpuGuest) { g.Request(0); g.ost(0, 3, 0x81) },
		"asking the absent to go":     func(g *cpuGuest) { g.Request(2); g.ost(2, 3, 0x81) },
	} {
		g := newCPUGuest(3, 1)
		do(g)
		if len(g.ejected)+len(g.refused) != 0 {
			t.Errorf("%s: ejected %v, refused %v", name, g.ejected, g.refused)
		}
		if a, b, c := g.flags(0), g.flags(1)&CPUFlagEnabled, g.flags(2); a != 1 || b != 1 || c != 0 {
			t.Errorf("%s: the processors have flags %#x, %#x, %#x", name, a, b, c)
		}
	}
}

func (g *cpuGuest) ost(cpu, event, status uint32) {
	g.out32(CPUHotplugSelector, cpu)
	g.out8(CPUHotplugCommand, CPUCommandOSTEvent)
	g.out32(CPUHotplugData, event)
	g.out8(CPUHotplugCommand, CPUCommandOSTStatus)
	g.out32(CPUHotplugData, status)
}

func TestCPUHotplugRefusal(t *testing.T) {
	g := newCPUGuest(2, 1)
	g.Request(1)
	g.ost(1, 3, 0x84) // in progress
	g.ost(1, 3, 0)    // success: the ejection itself tells
	if len(g.refused) != 0 || len(g.Requested()) != 1 {
		t.Errorf("refused %v, requested %v", g.refused, g.Requested())
	}
	g.ost(1, 3, 0x82)
	g.ost(1, 3, 0x82)
	if len(g.refused) != 1 || len(g.Requested()) != 0 {
		t.Errorf("refused %v, requested %v", g.refused, g.Requested())
	}
}

func TestCPUHotplugReset(t *testing.T) {
	g := newCPUGuest(4, 1)
	g.Plug(2)
	g.Request(1)
	g.Reset()
	if came, asked := g.scan(); came != nil || asked != nil || len(g.Requested()) != 0 {
		t.Errorf("a new guest is told of %v and %v; requested %v", came, asked, g.Requested())
	}
	g.Vacate(1)
	g.Vacate(0)
	for cpu, want := range []uint8{1, 0, 1, 0} {
		if got := g.flags(uint32(cpu)); got != want {
			t.Errorf("processor %d has flags %#x, want %#x", cpu, got, want)
		}
	}
}

func TestCPUHotplugSaveRestore(t *testing.T) {
	g := newCPUGuest(4, 1)
	g.Plug(2)
	g.Request(1)
	g.out32(CPUHotplugSelector, 2)
	g.out8(CPUHotplugCommand, CPUCommandOSTEvent)
	g.out32(CPUHotplugData, 3)
	state, err := g.Save()
	if err != nil {
		t.Fatal(err)
	}
	again := newCPUGuest(4, 1, 2)
	if err := again.Restore(state); err != nil {
		t.Fatal(err)
	}
	again.Write(CPUHotplugSelector, []byte{1, 0, 0, 0})
	again.out8(CPUHotplugCommand, CPUCommandOSTStatus)
	again.out32(CPUHotplugData, 0x82)
	if !slices.Equal(again.refused, []int{1}) {
		t.Errorf("the event of _OST was lost: refused %v", again.refused)
	}
	if came, asked := again.scan(); !slices.Equal(came, []uint32{2}) || !slices.Equal(asked, []uint32{1}) {
		t.Errorf("restored: %v came, %v asked", came, asked)
	}
	for _, bad := range []string{"", "{}", `{"version":2}`, `{"version":1,"cpus":[1,1,1]}`, `{"version":1,"cpus":[1,1,0,0]}`,
		`{"version":1,"cpus":[1,1,1,2]}`, `{"version":1,"cpus":[1,1,9,0]}`, `{"version":1,"cpus":[257,1,1,0]}`, `{"version":1,"cpus":[5,1,1,0]}`} {
		if err := newCPUGuest(4, 1, 2).Restore([]byte(bad)); err == nil {
			t.Errorf("restored %q", bad)
		}
	}
}

// FuzzCPUHotplug lets a guest do anything while processors come and are asked to go: only what is there is ejected, once,
// and never the first one; what is saved can be restored.
func FuzzCPUHotplug(f *testing.F) {
	f.Add([]byte{0x80, 1, 0, 0, 0, 0, 0x00, 3, 1, 0, 0, 0, 0x04, 0, 8, 0, 0, 0})
	f.Add([]byte{0x81, 1, 0, 0, 0, 0, 0x05, 0, 0, 0, 0, 0, 0x48, 2, 0, 0, 0, 0, 0x05, 0, 2, 0, 0, 0, 0x08, 2, 0x81, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		const n = 3
		there := [n]bool{0: true}
		h := NewCPUHotplug(CPUHotplugConfig{APICIDs: make([]uint32, n), Notify: func() {}, Refused: func(int, uint32) {},
			Ejected: func(cpu int) {
				if cpu == 0 || !there[cpu] {
					t.Errorf("ejected %d", cpu)
				}
				there[cpu] = false
			}})
		for ; len(ops) >= 6; ops = ops[6:] {
			cpu := int(ops[1]) % n
			switch op := ops[0]; {
			case op == 0x80:
				there[cpu] = true
				h.Plug(cpu)
			case op == 0x81:
				h.Request(cpu)
			case op == 0x82:
				h.Reset()
			case op&0x40 != 0:
				h.Read(uint64(op&0x3f), make([]byte, 1<<(ops[1]&3)))
			default:
				h.Write(uint64(op&0x3f), ops[2:2+min(4, 1<<(ops[1]&3))])
			}
		}
		state, err := h.Save()
		if err != nil {
			t.Fatal(err)
		}
		again := NewCPUHotplug(CPUHotplugConfig{APICIDs: make([]uint32, n)})
		for cpu, is := range there {
			if is {
				again.Occupy(cpu)
			}
		}
		if err := again.Restore(state); err != nil {
			t.Error(err)
		}
	})
}
