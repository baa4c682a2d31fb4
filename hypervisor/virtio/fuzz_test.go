package virtio_test

import (
	"errors"
	"testing"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// FuzzQueue puts random bytes where the rings and buffers are, at random addresses, takes chains until there are no
// more, reads all, writes all and pushes them.
func FuzzQueue(f *testing.F) {
	f.Add(uint8(3), uint16(0x1000), uint16(0x2000), uint16(0x3000), uint16(1), []byte{0, 16, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 2, 0, 0, 0})
	f.Add(uint8(3), uint16(0x1000), uint16(0x2000), uint16(0x3000), uint16(8), []byte{0, 16, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0})
	f.Add(uint8(8), uint16(0x0), uint16(0x1000), uint16(0xf000), uint16(3), []byte{0, 0x10, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 4, 0, 0, 0})
	f.Add(uint8(15), uint16(0), uint16(0), uint16(0), uint16(0xffff), []byte{0xff})
	f.Fuzz(func(t *testing.T, logSize uint8, desc, avail, used, idx uint16, content []byte) {
		mem := virtiotest.NewMemory(t, 64<<10)
		for at := 0; at+len(content) < 64<<10 && len(content) > 0; at += len(content) {
			mem.WriteAt(content, uint64(at))
		}
		cfg := virtio.QueueConfig{
			Size: 1 << (logSize % 17), Desc: uint64(desc), Avail: uint64(avail), Used: uint64(used), KickFD: -1, CallFD: -1,
			Features: virtio.FeatureIndirectDesc | virtio.FeatureEventIdx,
		}
		q, err := virtio.NewQueue(mem, cfg)
		if err != nil {
			if !errors.Is(err, virtio.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		mem.WriteAt([]byte{byte(idx), byte(idx >> 8)}, uint64(avail)+2)
		var c virtio.Chain
		p := make([]byte, 64<<10)
		for steps := 0; steps <= 2*int(cfg.Size); steps++ {
			ok, err := q.Pop(&c)
			if err != nil && !errors.Is(err, virtio.ErrMalformed) {
				t.Fatal(err)
			}
			if !ok {
				return
			}
			if len(c.Read)+len(c.Write) > virtio.MaxChain || c.ReadLen+c.WriteLen > 1<<32 {
				t.Fatalf("chain of %d+%d pieces, %d+%d bytes", len(c.Read), len(c.Write), c.ReadLen, c.WriteLen)
			}
			c.CopyIn(p, 0)
			c.CopyOut(0, p)
			q.PushChain(&c, uint32(c.WriteLen))
			q.EnableKicks()
			q.Notify()
		}
	})
}
