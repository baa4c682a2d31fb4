package vhostuser_test

import (
	"strings"
	"testing"

	"virtd/hypervisor/vhostuser/vhostusertest"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// packedFixture is a fixture with a packed ring of ten.
type packedFixture struct {
	*fixture
	lost chan error
}

func ablePacked() vhostusertest.Config {
	cfg := able()
	cfg.Features |= virtio.FeatureRingPacked
	return cfg
}

func newPackedFixture(t *testing.T, cfg vhostusertest.Config) (*packedFixture, *vhostusertest.Backend) {
	t.Helper()
	back, conn := vhostusertest.Pair(t, cfg)
	f := &packedFixture{fixture: newFixture(t, conn, -1, nil), lost: make(chan error, 1)}
	f.fresh(t)
	return f, back
}

// fresh is a driver that starts with an empty ring.
func (f *packedFixture) fresh(t *testing.T) {
	f.ring = virtiotest.NewRing(t, f.mem, 1<<32, 10)
	f.ring.Features = virtio.FeatureVersion1 | virtio.FeatureRingPacked
	f.queue = f.ring.Queue(t)
}

func (f *packedFixture) start(t *testing.T) {
	t.Helper()
	s := f.setup()
	s.Features = f.ring.Features
	s.Lost = func(err error) { f.lost <- err }
	if err := f.Start(s); err != nil {
		t.Fatal(err)
	}
}

// answerBase has a back end say that a ring stands at base.
func answerBase(base uint32) func(uint32, []byte) ([]byte, []int, bool) {
	return func(request uint32, _ []byte) ([]byte, []int, bool) {
		if request != vhostusertest.GetVringBase {
			return nil, nil, false
		}
		return vhostusertest.Reply(request, vhostusertest.Word(uint64(base)<<32)), nil, true
	}
}

// TestServesPacked: a back end serves a packed ring, gives it back in each place, and serves on. Back ends that know one position
// only, as DPDK's do, say it in the lower half.
func TestServesPacked(t *testing.T) {
	f, back := newPackedFixture(t, ablePacked())
	for range 13 { // of two descriptors
		f.start(t)
		f.exchange(t, "one")
		f.Stop()
	}
	if f.queue.Base() != 0x80068006 || back.Accepted()&virtio.FeatureRingPacked == 0 {
		t.Errorf("the queue is at %#x; accepted %#x", f.queue.Base(), back.Accepted())
	}
	for _, c := range []struct{ says, want uint32 }{{0x8002, 0x80028002}, {0x0004, 0x00040004}, {0x80058005, 0x80058005}} {
		cfg := ablePacked()
		cfg.Answer = answerBase(c.says)
		f, _ := newPackedFixture(t, cfg)
		f.start(t)
		f.exchange(t, "one")
		f.Stop()
		if f.queue.Base() != c.want {
			t.Errorf("a back end at %#x leaves the queue at %#x", c.says, f.queue.Base())
		}
	}
}

// TestPackedLost: where nobody knows where the ring stands no other back end serves it, before the driver has started anew.
func TestPackedLost(t *testing.T) {
	for name, c := range map[string]struct {
		end      func(*packedFixture, *vhostusertest.Backend)
		base     uint32 // that the back end tells, if it is not 0
		protocol uint64
	}{
		"killed":                    {func(_ *packedFixture, b *vhostusertest.Backend) { b.Kill() }, 0, 0},
		"killed with account":       {func(_ *packedFixture, b *vhostusertest.Backend) { b.Kill() }, 0, vhostusertest.ProtocolInflight},
		"requests in flight":        {func(f *packedFixture, _ *vhostusertest.Backend) { f.Stop() }, 0x80028004, 0},
		"a place that is not there": {func(f *packedFixture, _ *vhostusertest.Backend) { f.Stop() }, 0x80108010, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := ablePacked()
			cfg.Protocol |= c.protocol
			if c.base != 0 {
				cfg.Answer = answerBase(c.base)
			}
			f, back := newPackedFixture(t, cfg)
			f.start(t)
			f.exchange(t, "one")
			c.end(f, back)
			if err := <-f.lost; err == nil || !strings.Contains(err.Error(), "stand") && !strings.Contains(err.Error(), "stood") {
				t.Errorf("told of %v", err)
			}
			back.Kill()
			virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
			cfg.Answer = nil
			next, conn := vhostusertest.Pair(t, cfg)
			if err := f.Replace(conn); err != nil {
				t.Fatal(err)
			}
			f.Stop()
			f.start(t)
			f.Stop()
			if next.Accepted() != 0 {
				t.Error("another back end serves the ring")
			}
			f.Forget() // a driver's reset
			f.fresh(t)
			f.start(t)
			f.exchange(t, "anew")
		})
	}
}

// TestPackedNeedsAll: a back end that comes later has packed rings if the first did.
func TestPackedNeedsAll(t *testing.T) {
	f, back := newPackedFixture(t, ablePacked())
	back.Kill()
	virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
	_, conn := vhostusertest.Pair(t, able())
	if err := f.Replace(conn); err == nil || !strings.Contains(err.Error(), "lacks features 0x400000000") {
		t.Errorf("got %v", err)
	}
}
