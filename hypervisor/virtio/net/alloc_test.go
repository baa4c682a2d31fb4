package net

import (
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio/net/rss"
)

// idleFixture is a fixture whose workers are stopped, so that a test can move packets itself.
func idleFixture(t testing.TB, edit ...func(*Config)) (*fixture, *receiver, *transmitter) {
	f := newFixture(t, 1, allNet, edit...)
	f.dev.Quiesce()
	q := f.tr.Env.Queues
	return f, f.dev.newReceiver(q[0], &f.dev.taps[0]), newTransmitter(q[1], &f.dev.taps[0])
}

func TestPacketsDoNotAllocate(t *testing.T) {
	t.Run("without hashes", func(t *testing.T) { packetsDoNotAllocate(t) })
	t.Run("with hashes", func(t *testing.T) { packetsDoNotAllocate(t, withHashReport) })
}

func packetsDoNotAllocate(t *testing.T, edit ...func(*Config)) {
	f, rx, tx := idleFixture(t, edit...)
	f.dev.hasher.Store(rss.NewHasher(testHash))
	header := make([]byte, f.header())
	small, big := append(header, udp4(100)...), append(header, udp4(20000)...)
	out := f.put(make([]byte, 1000))
	buf := f.rxBuffer(2048)
	var sink [2048]byte
	offered, queued := 0, 0
	refill := func() {
		for {
			if _, ok := f.rx(0).Collect(); !ok {
				break
			}
			offered--
		}
		for ; offered < ringSize; offered++ {
			f.rx(0).Add(buf)
		}
		for {
			if _, ok := f.tx(0).Collect(); !ok {
				break
			}
			queued--
		}
		for ; queued < 8; queued++ {
			f.tx(0).Add(out)
		}
	}
	var s Stats
	round := func(p []byte) {
		unix.Write(f.host[0], p)
		if _, err := rx.receive(1, &s); err != nil {
			t.Fatal(err)
		}
		rx.q.Notify()
		if _, _, err := tx.transmit(1, false, &s); err != nil {
			t.Fatal(err)
		}
		tx.q.Notify()
		unix.Read(f.host[0], sink[:])
	}
	for range 40 { // what grows, grows once: every place of the window has had a chain
		refill()
		round(big)
		round(small)
	}
	// The driver's side allocates, so it works ahead of what is measured.
	for _, p := range [][]byte{small, big} {
		refill()
		if got := testing.AllocsPerRun(4, func() { round(p) }); got != 0 {
			t.Errorf("%v allocations for %d bytes", got, len(p))
		}
	}
	if s.RxPackets != 90 || s.TxPackets != 90 {
		t.Errorf("statistics %+v: not every round moved packets", s)
	}
}

// BenchmarkTransmit moves packets from a ring to a socket, with the driver's work for them.
func BenchmarkTransmit(b *testing.B) {
	f, _, tx := idleFixture(b)
	out := f.put(make([]byte, 1514))
	var sink [2048]byte
	var s Stats
	b.ReportAllocs()
	for b.Loop() {
		f.tx(0).Add(out)
		tx.transmit(64, false, &s)
		f.tx(0).Collect()
		unix.Read(f.host[0], sink[:])
	}
}

// BenchmarkReceive moves packets from a socket to a ring, with the driver's work for them: without hash reports, and with
// those of addresses and ports.
func BenchmarkReceive(b *testing.B) {
	for _, c := range []struct {
		name  string
		edit  func(*Config)
		frame []byte
	}{
		{"plain", func(*Config) {}, udp4(1514)}, {"hashed IPv4", withHashReport, udp4(1514)}, {"hashed IPv6", withHashReport, udp6(1514)},
	} {
		b.Run(c.name, func(b *testing.B) {
			f, rx, _ := idleFixture(b, c.edit)
			f.dev.hasher.Store(rss.NewHasher(testHash))
			buf, packet := f.rxBuffer(2048), append(make([]byte, f.header()), c.frame...)
			var s Stats
			b.ReportAllocs()
			for b.Loop() {
				f.rx(0).Add(buf)
				unix.Write(f.host[0], packet)
				if _, err := rx.receive(1, &s); err != nil {
					b.Fatal(err)
				}
				f.rx(0).Collect()
			}
		})
	}
}
