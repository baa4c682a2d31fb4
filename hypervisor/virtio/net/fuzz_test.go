package net

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/net/rss"
	"virtd/hypervisor/virtio/virtiotest"
)

// FuzzQueues runs all three kinds of queue over memory that the input filled. The first bytes choose features and how
// many packets come; the rest lies at address 0, where the rings are, and repeats behind them as buffers and indirect
// tables. Nothing may panic, hang, write outside what a ring says, or take more than it gives back.
func FuzzQueues(f *testing.F) {
	f.Add([]byte{})
	f.Add(append([]byte{0xff, 0xff, 9}, make([]byte, 600)...))
	seed := make([]byte, 3+3*fuzzRing)
	seed[0], seed[2] = 0xf, 3
	for ring := range 3 { // one good chain in each ring: a readable and a writable descriptor
		b := seed[3+ring*fuzzRing:]
		copy(b[0:], []byte{0, 0x10, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 1, 0, 1, 0})
		copy(b[16:], []byte{0, 0x20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 2, 0, 0, 0})
		if ring == 0 {
			copy(b[0:], b[16:32])
		}
		b[fuzzAvail+2] = 1
	}
	split := bytes.Clone(seed)
	f.Add(split)
	seed[0] = 0x1f // the same with packed rings
	for ring := range 3 {
		b := seed[3+ring*fuzzRing:]
		for _, d := range [][]byte{b[:16], b[16:32]} {
			d[12], d[14] = 0, d[12]|0x80
		}
	}
	f.Add(seed)
	seed = bytes.Clone(split)
	seed[0] = 0x2f // a whole command for receive-side scaling where the first buffer of each queue is
	copy(seed[3+fuzzRing:], append([]byte{classMQ, mqRSSConfig}, rssCommand(3, 0, 1, 1, []byte{1, 2, 3}, 0, 0)...))
	f.Add(seed)
	seed = bytes.Clone(split)
	seed[0] = 0x49 // the same for hash reports
	copy(seed[3+fuzzRing:], append([]byte{classMQ, mqHashConfig}, hashCommand(rss.Supported, 40, make([]byte, 40))...))
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var head [3]byte
		data = data[copy(head[:], data):]
		mem := virtiotest.NewMemory(t, 64<<10)
		for at := 0; at < 64<<10 && len(data) > 0; at += max(len(data), fuzzRing) {
			mem.WriteAt(data[:min(len(data), 64<<10-at)], uint64(at))
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[0])
		defer unix.Close(fds[1])
		fake := fakeSteering(t)
		defer unix.Close(fake.Program)
		defer unix.Close(fake.Map)
		dev, err := newDevice(Config{ID: "fuzz", Taps: fds[:1:1], RxQueueSize: 16, TxQueueSize: 16, Steering: fake, HashReport: true}, &fakeTap{})
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(dev.rss.shared)
		env := &virtio.Env{Memory: mem, ConfigChanged: func() {}, Fail: func(error) {}}
		for i, bit := range []uint64{featureMrgRxbuf, virtio.FeatureEventIdx, virtio.FeatureIndirectDesc, featureCtrlRx | featureCtrlMAC | featureGuestOffloads, virtio.FeatureRingPacked, featureRSS | featureMQ, featureHashReport} {
			if head[0]>>i&1 != 0 {
				env.Features |= bit
			}
		}
		dev.env = env
		if err := dev.setHeaders(); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			base := uint64(i * fuzzRing)
			q, err := virtio.NewQueue(mem, virtio.QueueConfig{
				Index: i, Size: fuzzSize, Desc: base, Avail: base + fuzzAvail, Used: base + fuzzUsed, Features: env.Features, KickFD: -1, CallFD: -1,
			})
			if err != nil {
				t.Fatal(err)
			}
			env.Queues = append(env.Queues, q)
		}
		fuzzReceive(t, dev, fds, head)
		var s Stats
		tx := newTransmitter(env.Queues[1], &dev.taps[0])
		for range 3 {
			tx.transmit(64, false, &s)
		}
		if n := s.TxPackets + s.TxErrors + s.TxDropped; n > 3*64 {
			t.Errorf("%d packets in three budgets", n)
		}
		c := &control{dev: dev, q: env.Queues[2]}
		for range 3 {
			c.drain()
		}
		if config := dev.rss.config; config != nil && (env.Features&featureRSS == 0 || config.Check(1) != nil) {
			t.Errorf("%+v was taken from a driver with features %#x", config, env.Features)
		}
		if h := dev.hasher.Load(); h != nil {
			if hash := h.Hash(); env.Features&featureHashReport == 0 || hash.Check() != nil {
				t.Errorf("%+v was taken from a driver with features %#x", hash, env.Features)
			}
		}
		fuzzReceive(t, dev, fds, head) // with what the commands changed
	})
}

// Layout of the fuzzer's rings.
const (
	fuzzSize  = 16
	fuzzAvail = 16 * fuzzSize
	fuzzUsed  = fuzzAvail + 4 + 2*fuzzSize + 4
	fuzzRing  = 1024
)

func fuzzReceive(t *testing.T, dev *Device, fds [2]int, head [3]byte) {
	q := dev.env.Queues[0]
	rx := dev.newReceiver(q, &dev.taps[0])
	for i := range int(head[2] & 7) {
		unix.Write(fds[1], append(make([]byte, dev.taps[0].header), udp4(60+int(head[1])*(i*40))...))
	}
	var s Stats
	for range 3 {
		if _, err := rx.receive(64, &s); err != nil {
			break
		}
	}
	if rx.n > int(q.Size()) {
		t.Errorf("window of %d chains from a queue of %d", rx.n, q.Size())
	}
	rx.giveBack()
	if q.Err() == nil && q.InFlight() != 0 {
		t.Errorf("%d chains were not given back", q.InFlight())
	}
}
