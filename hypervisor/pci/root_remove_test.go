package pci

import (
	"sync"
	"testing"
)

// A function that goes while a guest looks at it leaves nothing behind: no configuration space, no BAR, no interrupt, no
// presence at its port. What its BAR covered is free for the next.
func TestRemove(t *testing.T) {
	b := newBoard(t)
	if err := b.AddRootPort(Address{Slot: 2}, RootPortConfig{Index: 1, Port: 1}); err != nil {
		t.Fatal(err)
	}
	f, _ := testFunction(t, b.controller, true)
	if err := b.Add(Address{Bus: 1}, f); err != nil {
		t.Fatal(err)
	}
	if err := b.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	port := b.Function(Address{Slot: 2})
	var guest sync.WaitGroup
	stop := make(chan struct{})
	guest.Go(func() {
		p := make([]byte, 4)
		for {
			select {
			case <-stop:
				return
			default:
				b.ConfigRead(1, 0, 0, p)
				b.ConfigWrite(1, 0, regCommand, []byte{6, 0})
			}
		}
	})
	for range 50 {
		f.SetINTx(true)
		b.Remove(f)
		b.Remove(f) // again is nothing
		if got := b.Function(Address{Bus: 1}); got != nil {
			t.Fatalf("%v is there", got)
		}
		if v := port.Uint16(port.express + expSlotStatus); v&slotPresence != 0 {
			t.Fatal("the port says that a device is there")
		}
		if b.controller.level(FirstPIRQGSI + uint32(Q35PIRQ(2, 1))) {
			t.Fatal("its interrupt stays")
		}
		f, _ = testFunction(t, b.controller, true)
		if err := b.Add(Address{Bus: 1}, f); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	guest.Wait()
	p := make([]byte, 2)
	b.ConfigRead(1, 0, 0, p)
	if p[0] == 0xff {
		t.Error("the last one does not answer")
	}
	at := uint64(0)
	if err := b.Assign(testWindows); err != nil {
		t.Fatal(err)
	}
	for _, d := range f.decoders {
		if d.mapped && !d.io {
			at = d.at
		}
	}
	if !b.memory.Read(at, p) {
		t.Fatalf("no BAR of the last one answers (%#x)", at)
	}
	b.Remove(f)
	if b.memory.Read(at, p) {
		t.Errorf("something answers where its BAR was, at %#x", at)
	}
	if b.ConfigRead(1, 0, 0, p); p[0] != 0xff || p[1] != 0xff {
		t.Errorf("an empty slot reads %x", p)
	}
	for _, d := range f.decoders {
		if d.mapped {
			t.Errorf("%s is decoded", d.name)
		}
	}
}
