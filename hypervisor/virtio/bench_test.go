package virtio_test

import (
	"testing"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// BenchmarkQueue takes chains of two buffers in batches of 32, and gives them back as devices do. The driver's part is in the
// time: of a split ring an index, of a packed one all descriptors.
func BenchmarkQueue(b *testing.B) {
	b.Run("split", func(b *testing.B) {
		r, q := newRing(b, 64, virtio.FeatureEventIdx)
		for i := range uint16(32) {
			r.SetDesc(2*i, bufAt, 16, virtiotest.Next, 2*i+1)
			r.SetDesc(2*i+1, bufAt+64, 4096, virtiotest.Write, 0)
		}
		idx := uint16(0)
		for i := range uint16(64) { // the available ring: each head twice
			r.Offer(i % 32 * 2)
		}
		r.SetAvailIdx(0)
		serve(b, q, func() {
			idx += 32
			r.SetAvailIdx(idx)
		})
	})
	b.Run("packed", func(b *testing.B) {
		r, q := newRing(b, 64, virtio.FeatureEventIdx|packed)
		r.SetNoInterrupt(true)
		flags := uint16(virtiotest.Avail)
		serve(b, q, func() {
			for i := range uint16(32) {
				r.SetPacked(2*i+1, bufAt+64, 4096, i, flags|virtiotest.Write)
				r.SetPacked(2*i, bufAt, 16, i, flags|virtiotest.Next)
			}
			flags ^= virtiotest.Avail | virtiotest.Done
		})
	})
}

// serve works on 32 chains in each round, which offer makes available.
func serve(b *testing.B, q *virtio.Queue, offer func()) {
	var c virtio.Chain
	b.ReportAllocs()
	for b.Loop() {
		offer()
		q.DisableKicks()
		for {
			ok, err := q.Pop(&c)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
			q.Push(&c, 4096)
		}
		q.Notify()
		q.EnableKicks()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(32*b.N), "ns/chain")
}
