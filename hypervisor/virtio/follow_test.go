package virtio_test

import (
	"math/rand/v2"
	"testing"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// TestFollower: owners of a queue that give chains back in any order die again and again, and each successor gets exactly
// what the one before owed.
func TestFollower(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	ring := virtiotest.NewRing(t, mem, 0, 16)
	q := ring.Queue(t)
	random := rand.New(rand.NewPCG(1, 2))
	inFlight := map[uint16]bool{}
	for life := range 300 {
		f := virtio.NewFollower(q)
		var taken []virtio.Chain
		for range random.IntN(60) {
			switch random.IntN(4) {
			case 0, 1:
				if len(inFlight) < int(ring.Size) {
					inFlight[ring.Add(virtiotest.Buf{GPA: 0x8000, Len: 8})] = true
				}
			case 2:
				var c virtio.Chain
				if ok, err := q.Pop(&c); err != nil {
					t.Fatal(err)
				} else if ok {
					if !inFlight[c.Head] {
						t.Fatalf("life %d: chain %d came, which was not owed", life, c.Head)
					}
					taken = append(taken, c)
				}
			case 3:
				if len(taken) > 0 {
					i := random.IntN(len(taken))
					q.Push(&taken[i], 0)
					q.Notify()
					delete(inFlight, taken[i].Head)
					taken = append(taken[:i], taken[i+1:]...)
					if _, ok := ring.Collect(); !ok {
						t.Fatal("what came back is not there")
					}
				}
			}
			if random.IntN(5) == 0 {
				f.Look()
			}
		}
		busy := f.Look()
		if busy != (len(inFlight) > 0) {
			t.Fatalf("life %d: %d are in flight and Look says %v", life, len(inFlight), busy)
		}
		if !f.TakeOver() {
			t.Fatalf("life %d: the account was lost", life)
		}
		if q.InFlight() != 0 || int(ring.Offered()-uint16(q.Base())) != len(inFlight) {
			t.Fatalf("life %d: the queue stands at %d of %d with %d in flight", life, q.Base(), ring.Offered(), len(inFlight))
		}
	}
}

// TestFollowerLost: more than a queue's worth between two looks is noticed, and forgotten when the queue is idle.
func TestFollowerLost(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	ring := virtiotest.NewRing(t, mem, 0, 4)
	q := ring.Queue(t)
	f := virtio.NewFollower(q)
	turn := func(keep int) {
		var chains []virtio.Chain
		for range 1 + keep {
			ring.Add(virtiotest.Buf{GPA: 0x8000, Len: 8})
			var c virtio.Chain
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			chains = append(chains, c)
		}
		q.Push(&chains[keep], 0)
		q.Notify()
		ring.Collect()
	}
	turn(0)
	if f.Look() {
		t.Error("an idle queue is busy")
	}
	turn(1)
	for range 5 {
		turn(0)
	}
	if !f.Look() {
		t.Error("a busy queue is idle")
	}
	used := q.UsedIndex()
	if f.TakeOver() {
		t.Error("an account of which a part is missing is taken for exact")
	}
	if q.Base() != uint32(used) {
		t.Errorf("the queue stands at %d, chains came back up to %d", q.Base(), used)
	}
}

// TestFollowerHostile: a driver that writes nonsense into its rings has no account kept, and nothing else.
func TestFollowerHostile(t *testing.T) {
	mem := virtiotest.NewMemory(t, 1<<20)
	ring := virtiotest.NewRing(t, mem, 0, 8)
	q := ring.Queue(t)
	f := virtio.NewFollower(q)
	random := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		switch random.IntN(3) {
		case 0:
			ring.Offer(uint16(random.IntN(20)))
		case 1:
			ring.SetAvailIdx(uint16(random.IntN(1 << 16)))
		case 2:
			var b [2]byte
			b[0], b[1] = byte(random.IntN(256)), byte(random.IntN(256))
			if err := mem.WriteAt(b[:], ring.Used+2); err != nil {
				t.Fatal(err)
			}
		}
		f.Look()
		if random.IntN(50) == 0 {
			f.TakeOver()
			f = virtio.NewFollower(q)
		}
	}
}
