package net

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio/net/rss"
	"virtd/hypervisor/virtio/net/taptest"
	"virtd/hypervisor/virtio/virtiotest"
	"virtd/lab/labtest"
)

// testHash has the key by which implementations are verified; see package rss.
var testHash = rss.Hash{Types: rss.Supported, Key: [rss.KeySize]byte{
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
	0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
}}

// What that key makes of udp4 and udp6, and the numbers of the types of hashes (VIRTIO_NET_HASH_REPORT_*).
const (
	hash4, ports4, ports6           = 0x323e8fc2, 0x51ccc178, 0x40207d3d
	reportIPv4, reportUDP4, report6 = 1, 3, 6
)

func withHashReport(c *Config) { c.HashReport = true }

// udp4 and udp6 are packets of n bytes of flows whose hashes are known.
func udp4(n int) []byte {
	return udp(n, []byte{0: 0x45, 9: unix.IPPROTO_UDP, 19: 0}, 12, unix.ETH_P_IP, "66.9.149.187:2794", "161.142.100.80:1766")
}

func udp6(n int) []byte {
	return udp(n, []byte{0: 0x60, 6: unix.IPPROTO_UDP, 39: 0}, 8, unix.ETH_P_IPV6, "[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766")
}

func udp(n int, header []byte, addresses int, etherType uint16, from, to string) []byte {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	copy(header[addresses:], append(src.Addr().AsSlice(), dst.Addr().AsSlice()...))
	p := append(append([]byte{}, taptest.Guest[:]...), taptest.Peer[:]...)
	p = append(binary.BigEndian.AppendUint16(p, etherType), header...)
	p = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(p, src.Port()), dst.Port())
	return append(p, pattern(n)...)[:n]
}

// hashCommand is struct virtio_net_hash_config.
func hashCommand(types uint32, keyLength int, key []byte) []byte {
	b := append(binary.LittleEndian.AppendUint32(nil, types), make([]byte, 8)...)
	return append(append(b, byte(keyLength)), key...)
}

// hashBy has the driver ask for hashes of the given types, with the key of testHash.
func (f *fixture) hashBy(types uint32) {
	f.t.Helper()
	if f.command(classMQ, mqHashConfig, hashCommand(types, rss.KeySize, testHash.Key[:])) != controlOK {
		f.t.Fatal("a good command is refused")
	}
}

// wantHash checks what the header of the last packet says of its hash, and that all behind num_buffers was written.
func (f *fixture) wantHash(what string, value uint32, report uint16) {
	f.t.Helper()
	want := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint32(nil, value), report)
	if want = append(want, 0, 0); len(f.head) != hashHeaderSize || !bytes.Equal(f.head[headerSize:], want) {
		f.t.Errorf("%s: header % x, want it to end with % x", what, f.head, want)
	}
}

// arrive sends a frame to the guest, which has the given buffers, and checks that it comes as it is.
func (f *fixture) arrive(frame []byte, n int, size uint32) {
	f.t.Helper()
	bufs := f.offerRx(0, n, size)
	for _, b := range bufs { // what the device does not write is seen
		f.mem.WriteAt(bytes.Repeat([]byte{0xee}, int(size)), b.GPA)
	}
	f.fromHost(0, frame)
	wantBytes(f.t, "frame", f.receiveFrame(0, bufs), frame)
}

func TestHashReport(t *testing.T) {
	f := newFixture(t, 1, allNet, withHashReport)
	var space [spaceSize]byte
	f.dev.ReadConfig(0, space[:])
	wantBytes(t, "limits in the configuration", space[spaceKey:], []byte{40, 0, 0, 0x3f, 0, 0, 0})

	f.arrive(udp4(100), 1, 1536)
	f.wantHash("before any command", 0, 0)
	f.hashBy(rss.Supported)
	f.arrive(udp4(100), 1, 1536)
	f.wantHash("UDP on IPv4", ports4, reportUDP4)
	f.arrive(udp6(1514), 1, 1536)
	f.wantHash("UDP on IPv6", ports6, report6)
	f.arrive(udp4(9000), 6, 1536)
	f.wantHash("in several buffers", ports4, reportUDP4)
	f.arrive(pattern(14), 1, 1536)
	f.wantHash("not hashed", 0, 0)
	f.hashBy(rss.IPv4)
	f.arrive(udp4(100), 1, 1536)
	f.wantHash("addresses alone", hash4, reportIPv4)
	f.hashBy(0)
	f.arrive(udp4(100), 1, 1536)
	f.wantHash("no types", 0, 0)

	f.hashBy(rss.Supported)
	f.dev.Reset()
	if f.dev.hasher.Load() != nil {
		t.Error("hashes outlive a reset")
	}
}

// TestHashReportBuffers has packets whose headers are in pieces.
func TestHashReportBuffers(t *testing.T) {
	f := newFixture(t, 1, allNet, withHashReport)
	f.hashBy(rss.Supported)
	f.arrive(udp4(200), 16, hashHeaderSize) // the first of which is full of the header
	f.wantHash("mergeable buffers as small as there may be", ports4, reportUDP4)

	g := newFixture(t, 1, allNet&^featureMrgRxbuf, withHashReport)
	g.hashBy(rss.Supported)
	for _, sizes := range [][]uint32{{20, 1514}, {12, 8, 1514}, {11, 4, 4, 3, 30, 1500}, {70, 1500}} {
		var chain []virtiotest.Buf
		for _, n := range sizes {
			chain = append(chain, g.rxBuffer(n))
		}
		g.rx(0).Add(chain...)
		g.rx(0).Kick()
		g.fromHost(0, udp6(200))
		g.rx(0).WaitUsed(t)
		var got []byte
		for _, b := range chain {
			got = append(got, g.bytes(b.GPA, b.Len)...)
		}
		g.head = got[:hashHeaderSize]
		g.wantHash("in pieces", ports6, report6)
		wantBytes(t, "frame in pieces", got[hashHeaderSize:hashHeaderSize+200], udp6(200))
	}
}

// TestHashReportWhileItChanges: a packet has the hash of before or of after a command, and nothing else.
func TestHashReportWhileItChanges(t *testing.T) {
	f := newFixture(t, 1, allNet, withHashReport)
	const packets = ringSize
	bufs := f.offerRx(0, packets, 256)
	var sender sync.WaitGroup
	sender.Go(func() {
		for range packets {
			f.fromHost(0, udp4(100))
		}
	})
	for i := range 40 {
		f.hashBy([]uint32{rss.Supported, 0}[i%2])
	}
	sender.Wait()
	seen := map[string]int{}
	for range packets {
		wantBytes(t, "frame", f.receiveFrame(0, bufs), udp4(100))
		seen[string(f.head[headerSize:])]++
	}
	hashed := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint32(nil, ports4), reportUDP4)
	if none := make([]byte, 8); seen[string(none)]+seen[string(append(hashed, 0, 0))] != packets {
		t.Errorf("ends of headers: %#v", seen)
	}
}

func TestHashReportTransmit(t *testing.T) {
	f := newFixture(t, 1, allNet, withHashReport)
	want := append(make([]byte, hashHeaderSize), udp4(100)...)
	f.tx(0).Add(f.put(want[:15]), f.put(want[15:]))
	f.tx(0).Kick()
	wantBytes(t, "packet with its header", f.toHost(0), want)
	f.tx(0).WaitUsed(t)
	f.wantStats(func(s Stats) bool { return s.TxPackets == 1 && s.TxBytes == 100 })
	f.tx(0).Add(f.put(make([]byte, hashHeaderSize-1)))
	f.tx(0).Kick()
	if err := f.tr.WaitFailure(t); !strings.Contains(err.Error(), "shorter than its header") {
		t.Error(err)
	}
}

func TestHashReportStream(t *testing.T) {
	f, far := streamFixture(t, withHashReport)
	f.hashBy(rss.Supported)
	for _, n := range []int{60, 1514, 9000} {
		bufs := f.offerRx(0, 8, 1536)
		far.Write(framed(udp4(n)))
		wantBytes(t, "frame", f.receiveFrame(0, bufs), udp4(n))
		f.wantHash("from a stream", ports4, reportUDP4)
		f.tx(0).Add(f.put(append(make([]byte, hashHeaderSize), pattern(n)...)))
		f.tx(0).Kick()
		wantBytes(t, "to the stream", readFrame(t, far), pattern(n))
	}
}

// TestHashReportAndRSS: one key and one set of types are for both, and the last command counts.
func TestHashReportAndRSS(t *testing.T) {
	f := newFixture(t, 4, allNet, withHashReport, withRSS(t))
	program := f.dev.cfg.Steering.Program
	if f.command(classMQ, mqRSSConfig, rssCommand(rss.UDPv4, 0, 2, rss.KeySize, testHash.Key[:], 0, 1)) != controlOK {
		t.Fatal("a good command is refused")
	}
	f.wantSteering("with a table", 2, program)
	f.arrive(udp4(100), 1, 1536)
	f.wantHash("by the key of the table", ports4, reportUDP4)
	f.arrive(udp6(100), 1, 1536)
	f.wantHash("a type that is not asked for", 0, 0)
	if f.command(classMQ, mqPairsSet, []byte{3, 0}) != controlOK {
		t.Error("queue pairs refused")
	}
	f.wantSteering("with a number of pairs", 3, -1)
	f.arrive(udp4(100), 1, 1536)
	f.wantHash("with a number of pairs", ports4, reportUDP4)
	f.command(classMQ, mqRSSConfig, rssCommand(0, 0, 2, rss.KeySize, testHash.Key[:], 0, 1))
	f.hashBy(rss.UDPv6)
	f.wantSteering("hashes alone", 2, -1)
	f.arrive(udp6(100), 1, 1536)
	f.wantHash("hashes alone", ports6, report6)
}

func TestHashReportHostile(t *testing.T) {
	f := newFixture(t, 4, allNet, withHashReport, withRSS(t))
	key := testHash.Key[:]
	if f.command(classMQ, mqRSSConfig, rssCommand(rss.Supported, 0, 2, len(key), key, 0, 1)) != controlOK {
		t.Fatal("a good command is refused")
	}
	before, scaled := f.dev.hasher.Load(), f.dev.rss.config
	good := hashCommand(rss.Supported, len(key), key)
	for name, data := range map[string][]byte{
		"nothing":                  {},
		"types alone":              good[:4],
		"no key length":            good[:hashHeadSize-1],
		"key length without a key": good[:hashHeadSize],
		"short key":                good[:len(good)-1],
		"key of 41 bytes":          hashCommand(1, 41, make([]byte, 41)),
		"key of 255 bytes":         hashCommand(1, 255, make([]byte, 255)),
		"hash type IP_EX":          hashCommand(1<<6, 40, key),
		"all hash types":           hashCommand(0xffffffff, 40, key),
	} {
		if f.command(classMQ, mqHashConfig, data) != controlErr {
			t.Errorf("%s: taken", name)
		}
	}
	if f.command(classMQ, mqHashConfig+1, good) != controlErr {
		t.Error("an unknown command is taken")
	}
	// A command about tables that is refused changes no hashes either.
	for _, data := range [][]byte{good, rssCommand(rss.IPv4, 0, 5, 0, nil, 0), rssCommand(1<<6, 0, 1, 0, nil, 0)} {
		if f.command(classMQ, mqRSSConfig, data) != controlErr {
			t.Errorf("% x: taken", data)
		}
	}
	if f.dev.hasher.Load() != before || f.dev.rss.config != scaled {
		t.Error("a refused command has changed something")
	}
	f.wantSteering("after refused commands", 2, f.dev.cfg.Steering.Program)

	if plain := newFixture(t, 1, allNet); plain.dev.Features()&featureHashReport != 0 || plain.command(classMQ, mqHashConfig, good) != controlErr {
		t.Error("a device without hash reports takes them")
	}
	without := newFixture(t, 1, allNet&^featureHashReport, withHashReport)
	if without.command(classMQ, mqHashConfig, good) != controlErr {
		t.Error("a driver that did not take hash reports sets them")
	}
	without.arrive(udp4(100), 1, 1536)
	if len(without.head) != headerSize {
		t.Errorf("a header of %d bytes for a driver that did not take hash reports", len(without.head))
	}
}

// TestHashReportHeaders: each driver has the header that it knows, on all queues.
func TestHashReportHeaders(t *testing.T) {
	f := newFixture(t, 2, allNet, withHashReport)
	want := func(what string, size int) {
		t.Helper()
		f.tap.mu.Lock()
		defer f.tap.mu.Unlock()
		for i := range f.dev.taps {
			if got := f.tap.headers[f.dev.taps[i].fd]; got != size {
				t.Errorf("%s: a header of %d bytes at queue %d, want %d", what, got, i, size)
			}
		}
	}
	want("driver with hash reports", hashHeaderSize)
	f.dev.Reset()
	f.tr.Env.Features &^= featureHashReport
	f.activate()
	want("driver without", headerSize)
	f.arrive(udp4(100), 1, 1536)
}

func TestHashReportSaved(t *testing.T) {
	f := newFixture(t, 2, allNet, withHashReport)
	f.hashBy(rss.Supported)
	f.dev.Quiesce()
	saved, err := f.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	g := newFixture(t, 2, allNet, withHashReport)
	g.dev.Reset()
	if err := g.dev.Restore(saved); err != nil {
		t.Fatal(err)
	}
	g.tr = virtiotest.NewTransport(t, g.mem, g.tr.Env.Features, g.rings...)
	g.activate()
	g.arrive(udp6(100), 1, 1536)
	g.wantHash("restored", ports6, report6)

	if err := newFixture(t, 2, allNet).dev.Restore(saved); err == nil || !strings.Contains(err.Error(), "hash reports") {
		t.Errorf("a device without hash reports restores them: %v", err)
	}
	bad := `{"version":2,"pairs":1,"hash":{"types":64}}`
	if newFixture(t, 2, allNet, withHashReport).dev.Restore([]byte(bad)) == nil {
		t.Error("unknown types of hashes are restored")
	}
	if newFixture(t, 2, allNet, withHashReport).dev.Restore([]byte(`{"version":3,"pairs":1}`)) == nil {
		t.Error("a state of a version to come is restored")
	}
	// Engines before hash reports read states without them.
	plain := newFixture(t, 2, allNet, withHashReport)
	plain.dev.Quiesce()
	var s state
	if saved, err = plain.dev.Save(); err != nil || json.Unmarshal(saved, &s) != nil || s.Version != stateVersion {
		t.Errorf("state without hash reports: %s, %v", saved, err)
	}
}

func TestHashReportRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"vhost":      {Taps: []int{0}, Vhosts: []int{0}, HashReport: true},
		"vhost-user": {User: &User{Pairs: 1}, HashReport: true},
	} {
		if err := c.check(); err == nil || !strings.Contains(err.Error(), "hash reports") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRealTapHashReport(t *testing.T) { realTapHashReport(t) }

// TestLabRealTapHashReport is the same where a test that skips is a failure.
func TestLabRealTapHashReport(t *testing.T) {
	labtest.Need(t, labtest.Tun)
	realTapHashReport(t)
}

// realTapHashReport has a real tap write the part of the header that is its own, in all its queues.
func realTapHashReport(t *testing.T) {
	f, tap := newTapFixture(t, 4, withHashReport)
	frame := taptest.Frame(taptest.Guest, taptest.Peer, 100)
	copy(frame[12:], udp4(100)[12:])
	arrive := func(pair int) {
		t.Helper()
		bufs := f.offerRx(pair, 4, 2048)
		tap.Send(frame)
		for !bytes.Equal(f.receiveFrame(pair, bufs), frame) { // the namespace's own IPv6 chatter comes too
		}
	}
	f.hashBy(rss.Supported)
	arrive(0)
	f.wantHash("from a tap", ports4, reportUDP4)
	for _, pairs := range []byte{4, 1} { // queues that were detached when the header was set
		if f.command(classMQ, mqPairsSet, []byte{pairs, 0}) != controlOK {
			t.Fatal("queue pairs refused")
		}
		pair := int(pairs) - 1
		out := taptest.Frame(taptest.Peer, taptest.Guest, 200)
		// The kernel sends what comes of a flow to the queue that was sent on.
		back := udp(100, []byte{0: 0x45, 9: unix.IPPROTO_UDP, 19: 0}, 12, unix.ETH_P_IP, "161.142.100.80:1766", "66.9.149.187:2794")
		for _, frame := range [][]byte{back, out} {
			f.tx(pair).Add(f.put(append(make([]byte, hashHeaderSize), frame...)))
			f.tx(pair).Kick()
			f.tx(pair).WaitUsed(t)
		}
		wantBytes(t, "from the guest", tap.Receive(), out)
		arrive(pair)
		f.wantHash("from a queue of a tap", ports4, reportUDP4)
	}
	f.dev.Reset()
	f.dev.features &^= featureHashReport // another driver
	f.newDriver()
	exchange(t, f, tap, 100)
	f.dev.Reset()
	f.dev.features |= featureHashReport
	f.newDriver()
	arrive(0)
	f.wantHash("after a reset", 0, 0)
}
