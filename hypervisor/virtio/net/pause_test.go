package net

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
)

// stream has a driver send so many packets, one at a time, each of which takes the worker as long as packet says.
func (p *pauser) stream(packets int, packet time.Duration) (pauses int) {
	for range packets {
		p.send(1, packet)
		if p.next() > 0 {
			pauses++
		}
	}
	return pauses
}

func TestWorkerPausesForStream(t *testing.T) {
	var p pauser
	if n := p.stream(pauseCredit-1, 0); n != 0 {
		t.Errorf("%d pauses among the first packets", n)
	}
	if n := p.stream(100, time.Microsecond); n != 100 {
		t.Errorf("%d pauses in a stream of 100 packets", n)
	}
}

func TestWorkerDoesNotPauseForAnswers(t *testing.T) {
	var p pauser
	for range 1000 { // one asks, one answers; what is asked for comes in several packets
		p.stream(1, 0)
		p.receive(1)
		if d := p.next(); d != 0 {
			t.Fatalf("pause of %s between question and answer", d)
		}
	}
	p = pauser{}
	p.stream(pauseCredit, 0)
	p.receive(1)
	if d := p.next(); d != 0 {
		t.Errorf("pause of %s after the first answer", d)
	}
}

func TestWorkerStopsPausingInVain(t *testing.T) {
	var p pauser
	p.stream(pauseCredit, 0)
	if d := p.next(); d != 0 {
		t.Errorf("second pause of %s without a packet", d)
	}
	// one packet now and then
	if n := p.stream(pauseVain-1, 0); n != 0 {
		t.Errorf("%d pauses before the driver sent as much again", n)
	}
	if n := p.stream(1, 0); n != 1 {
		t.Error("no pause when it did")
	}
}

func TestPauseLength(t *testing.T) {
	for _, c := range []struct{ packet, least, most time.Duration }{
		{0, pauseShortest, pauseShortest},
		{10 * time.Microsecond, 319 * time.Microsecond, 320 * time.Microsecond},
		{time.Second, pauseLongest, pauseLongest},
	} {
		var p pauser
		p.stream(pauseCredit+100, c.packet)
		p.send(1, c.packet)
		if d := p.next(); d < c.least || d > c.most {
			t.Errorf("%s a packet: pause of %s, want %s to %s", c.packet, d, c.least, c.most)
		}
	}
}

// TestPausesLoseNothing has a driver that kicks only when asked send with gaps of any length around those of pauses: each packet
// leaves, in its order.
func TestPausesLoseNothing(t *testing.T) {
	for _, features := range []uint64{allNet, allNet &^ (virtio.FeatureEventIdx)} { // with and without event indexes
		f := newFixture(t, 1, features)
		next, at := uint64(0), f.header()+20
		for range 100 {
			for range 1 + rand.IntN(pauseCredit/2) {
				next++
				packet := make([]byte, 100)
				binary.LittleEndian.PutUint64(packet[at:], next)
				f.tx(0).Add(f.put(packet))
				if f.tx(0).WantsKick() {
					f.tx(0).Kick()
				}
				if got := binary.LittleEndian.Uint64(f.toHost(0)[at:]); got != next {
					t.Fatalf("packet %d left where %d was expected", got, next)
				}
				f.tx(0).WaitUsed(t)
			}
			time.Sleep(time.Duration(rand.Int64N(int64(2 * pauseLongest))))
		}
		f.dev.Quiesce()
		if s := f.dev.Stats(); s.TxPackets != next {
			t.Errorf("%d packets counted of %d", s.TxPackets, next)
		}
	}
}

// TestPauseDoesNotAllocate is about the wait itself.
func TestPauseDoesNotAllocate(t *testing.T) {
	f := newFixture(t, 1, allNet)
	f.dev.Quiesce()
	q := f.tr.Env.Queues
	th, err := newThread([]*worker{f.dev.newWorker(0, q[0], q[1])})
	if err != nil {
		t.Fatal(err)
	}
	defer th.close()
	var events [4]unix.EpollEvent
	if n := testing.AllocsPerRun(100, func() {
		if _, err := th.wait(events[:], time.Microsecond); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a pause makes %g allocations", n)
	}
}
