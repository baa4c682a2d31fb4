package virtio_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

func newPackedBench(t testing.TB, mem *memory.Memory) *bench {
	t.Helper()
	return newBenchOn(t, 2, mem, func(c *virtio.PCIConfig) { c.Packed = true })
}

// packedRing lays out a ring of 12 for queue i: packed rings need no power of two.
func (b *bench) packedRing(t testing.TB, i int) *virtiotest.Ring {
	return virtiotest.NewRing(t, b.mem, ringAt+uint64(i)*0x1000, 12)
}

// TestPCIPacked: packed rings are there for drivers that take them where they are offered, through the same doorbells.
func TestPCIPacked(t *testing.T) {
	const notificationData uint64 = 1 << 38
	for _, c := range []struct {
		features uint64
		bindErr  error
	}{
		{packed, nil},
		{packed | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc, nil},
		{packed | virtio.FeatureEventIdx, errors.New("no ioeventfd here")},
	} {
		t.Run(fmt.Sprintf("%#x, %v", c.features, c.bindErr), func(t *testing.T) {
			b := newPackedBench(t, virtiotest.NewMemory(t, 1<<20))
			b.irq.BindError = c.bindErr
			if got, want := b.g.Features(), b.dev.Features()|virtio.FeatureVersion1|packed; got != want || got&notificationData != 0 {
				t.Fatalf("offers %#x, want %#x", got, want)
			}
			b.g.EnableMSIX(3)
			r0, r1 := b.packedRing(t, 0), b.packedRing(t, 1)
			b.g.Start(t, c.features, r0, r1)
			if got := b.g.Read(virtiotest.Status, 1); got != 15 {
				t.Fatalf("status %#x", got)
			}
			b.g.Write(virtiotest.QueueSelect, 2, 1)
			if size, off := b.g.Read(virtiotest.QueueSize, 2), b.g.Read(virtiotest.QueueNotifyOff, 2); size != 12 || off != 1 {
				t.Errorf("queue 1 has %d entries and doorbell %d", size, off)
			}
			for range 40 { // of two descriptors: several times round the ring
				b.roundTrip(t, 0, r0, "hello")
				b.roundTrip(t, 1, r1, "other queue")
				virtiotest.Eventually(t, "both vectors fire", func() bool {
					return b.g.Vector(b.pci, 1).Pending() && b.g.Vector(b.pci, 2).Pending()
				})
				b.g.Vector(b.pci, 1).Take()
				b.g.Vector(b.pci, 2).Take()
			}
			split := b.ring(t, 0) // the next driver knows nothing of packed rings
			b.g.Start(t, c.features&^packed, split)
			b.roundTrip(t, 0, split, "split")
		})
	}
}

// TestPCINotPacked: what was not offered cannot be taken, and a size that only a packed ring can have is ignored.
func TestPCINotPacked(t *testing.T) {
	b := newBench(t, 1)
	if got := b.g.Features(); got&packed != 0 {
		t.Errorf("offers %#x", got)
	}
	if b.g.Negotiate(virtio.FeatureVersion1 | packed) {
		t.Error("agreed to packed rings")
	}
	if !b.g.Negotiate(virtio.FeatureVersion1) {
		t.Fatal("refused a usual driver")
	}
	b.g.Write(virtiotest.QueueSize, 2, 12)
	if got := b.g.Read(virtiotest.QueueSize, 2); got != 16 {
		t.Errorf("a split ring of %d", got)
	}
}

// TestPCISavePacked saves in each place of the ring, in rounds of both wrap counters, with a request waiting.
func TestPCISavePacked(t *testing.T) {
	for before := range 13 { // requests of two descriptors on a ring of 12
		mem := virtiotest.NewMemory(t, 1<<20)
		src := newPackedBench(t, mem)
		src.g.EnableMSIX(3)
		r0, r1 := src.packedRing(t, 0), src.packedRing(t, 1)
		src.g.Start(t, packed|virtio.FeatureEventIdx, r0, r1)
		for range before {
			src.roundTrip(t, 0, r0, "before")
		}
		src.pci.Quiesce()
		mem.WriteAt([]byte("in the queue"), bufAt)
		r0.Add(virtiotest.Buf{GPA: bufAt, Len: 12}, virtiotest.Buf{GPA: bufAt + 0x1000, Len: 12, Write: true})
		state, err := src.pci.Save()
		if err != nil {
			t.Fatal(err)
		}
		dst := newPackedBench(t, mem)
		dst.g.EnableMSIX(3)
		if err := dst.pci.Restore(state); err != nil {
			t.Fatal(err)
		}
		if again, err := dst.pci.Save(); err != nil || string(again) != string(state) {
			t.Errorf("a restored device saves %s, %v; it was %s", again, err, state)
		}
		dst.pci.Resume()
		var u virtiotest.Used
		virtiotest.Eventually(t, "the queued request is served without a kick", func() (ok bool) { u, ok = r0.Collect(); return })
		virtiotest.Eventually(t, "the interrupt for it", dst.g.Vector(dst.pci, 1).Pending)
		if u.Len != 12 {
			t.Errorf("after %d requests: used %v", before, u)
		}
		for range 13 {
			dst.roundTrip(t, 0, r0, "after")
		}
		dst.roundTrip(t, 1, r1, "the other queue")
		dst.pci.Quiesce() // and in place
		dst.pci.Resume()
		dst.roundTrip(t, 0, r0, "again")
	}
}

// TestPCIRestorePackedElsewhere: a driver with packed rings needs a device that offers them; one with split rings does not mind.
func TestPCIRestorePackedElsewhere(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	save := func(b *bench, features uint64, r *virtiotest.Ring) string {
		b.g.Start(t, features, r)
		b.roundTrip(t, 0, r, "before")
		b.pci.Quiesce()
		state, err := b.pci.Save()
		if err != nil {
			t.Fatal(err)
		}
		b.pci.Resume()
		b.g.Write(virtiotest.Status, 1, 0)
		return string(state)
	}
	offering := newPackedBench(t, mem)
	inPacked := save(offering, packed, offering.packedRing(t, 0))
	if err := newBenchOn(t, 2, mem).pci.Restore([]byte(inPacked)); err == nil || !strings.Contains(err.Error(), "features 0x400000000") {
		t.Errorf("restored on a device without packed rings: %v", err)
	}
	const base = `"base":2147647490` // descriptor 2 next for both, in rounds of wrap counter 1
	for _, bad := range []string{`"base":2147680266`, `"base":196610`, `"base":4294967295`, `"base":4294967296`} {
		state := strings.Replace(inPacked, base, bad, 1)
		if state == inPacked {
			t.Fatalf("no %s in %s", base, inPacked)
		}
		if err := newPackedBench(t, mem).pci.Restore([]byte(state)); err == nil {
			t.Errorf("restored a queue with %s", bad)
		}
	}

	plain := newBenchOn(t, 2, mem)
	r := plain.ring(t, 0)
	inSplit := save(plain, 0, r)
	if err := offering.pci.Restore([]byte(inSplit)); err != nil {
		t.Fatal(err)
	}
	offering.pci.Resume()
	offering.roundTrip(t, 0, r, "split as before")
}

// TestPCIRestorePackedBroken: a device that needed a reset stays still until it comes, because where its rings stand may not be
// known. It works again after that.
func TestPCIRestorePackedBroken(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	src := newPackedBench(t, mem)
	r := src.packedRing(t, 0)
	src.g.Start(t, packed, r)
	src.dev.env.Fail(errors.New("for this test"))
	src.pci.Quiesce()
	state, err := src.pci.Save()
	if err != nil {
		t.Fatal(err)
	}
	src.pci.Resume()
	dst := newPackedBench(t, mem)
	if err := dst.pci.Restore(state); err != nil {
		t.Fatal(err)
	}
	dst.pci.Resume()
	if dst.dev.env != nil || dst.g.Read(virtiotest.Status, 1) != 15|64 {
		t.Errorf("status %#x, device %v", dst.g.Read(virtiotest.Status, 1), dst.dev.env)
	}
	src.g.Write(virtiotest.Status, 1, 0)
	r = dst.packedRing(t, 0)
	dst.g.Start(t, packed, r)
	dst.roundTrip(t, 0, r, "anew")
}
