package steering

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio/net/rss"
	"virtd/hypervisor/virtio/net/taptest"
)

// microsoft is the key by which implementations are verified; see package rss.
var microsoft = [rss.KeySize]byte{
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
	0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
}

// Hashes of the flows below with that key: addresses, and with ports.
const (
	hash4, ports4 = 0x323e8fc2, 0x51ccc178
	hash6, ports6 = 0x2cc18cd5, 0x40207d3d
	none          = -1 // not hashed
)

var (
	from4, to4 = netip.MustParseAddrPort("66.9.149.187:2794"), netip.MustParseAddrPort("161.142.100.80:1766")
	from6, to6 = netip.MustParseAddrPort("[3ffe:2501:200:1fff::7]:2794"), netip.MustParseAddrPort("[3ffe:2501:200:3::1]:1766")
)

// ports are what TCP and UDP begin with, and something behind them.
func ports() []byte {
	p := binary.BigEndian.AppendUint16(nil, from4.Port())
	return append(binary.BigEndian.AppendUint16(p, to4.Port()), make([]byte, 30)...)
}

func ipv4(protocol byte, fragment uint16, options int) []byte {
	p := make([]byte, ipv4Size+options)
	p[0], p[9] = 0x40|byte(len(p)/4), protocol
	binary.BigEndian.PutUint16(p[6:], fragment)
	copy(p[12:], from4.Addr().AsSlice())
	copy(p[16:], to4.Addr().AsSlice())
	return append(p, ports()...)
}

// ipv6 has extension headers of 8 and 16 bytes in turn.
func ipv6(next byte, extensions ...byte) []byte {
	p := make([]byte, ipv6Size)
	p[0] = 0x60
	copy(p[8:], from6.Addr().AsSlice())
	copy(p[24:], to6.Addr().AsSlice())
	last := 6
	for i, e := range append(extensions, next) {
		p[last] = e
		if i < len(extensions) {
			last = len(p)
			p = append(p, make([]byte, 8+i%2*8)...)
			p[last+1] = byte(i % 2)
		}
	}
	return append(p, ports()...)
}

func frame(tags []uint16, etherType uint16, payload []byte) []byte {
	f := append(append([]byte{}, taptest.Guest[:]...), taptest.Peer[:]...)
	for _, tag := range tags {
		f = append(binary.BigEndian.AppendUint16(f, tag), 0, 5)
	}
	return append(binary.BigEndian.AppendUint16(f, etherType), payload...)
}

// Packets, and the hashes that they have with some types asked for.
const v4, v6, all = unix.ETH_P_IP, unix.ETH_P_IPV6, rss.Supported

var packets = []struct {
	name  string
	types uint32
	frame []byte
	hash  int64
}{
	{"TCP on IPv4", all, frame(nil, v4, ipv4(6, 0, 0)), ports4},
	{"UDP on IPv4", all, frame(nil, v4, ipv4(17, 0, 0)), ports4},
	{"another protocol on IPv4", all, frame(nil, v4, ipv4(1, 0, 0)), hash4},
	{"IPv4 with options", all, frame(nil, v4, ipv4(6, 0x4000, 12)), ports4},
	{"first fragment", all, frame(nil, v4, ipv4(17, 0x2000, 0)), hash4},
	{"later fragment", all, frame(nil, v4, ipv4(17, 100, 0)), hash4},
	{"TCP on IPv4, UDP hashed", rss.IPv4 | rss.UDPv4 | rss.TCPv6, frame(nil, v4, ipv4(6, 0, 0)), hash4},
	{"UDP on IPv4, TCP hashed", rss.TCPv4, frame(nil, v4, ipv4(17, 0, 0)), none},
	{"IPv4, IPv6 hashed", rss.IPv6 | rss.TCPv6 | rss.UDPv6, frame(nil, v4, ipv4(6, 0, 0)), none},
	{"IPv4 with a short header", all, frame(nil, v4, append([]byte{0x44}, ipv4(6, 0, 0)[1:]...)), none},
	{"IPv4 that ends in its header", all, frame(nil, v4, ipv4(6, 0, 0)[:16]), none},
	{"TCP that ends in its ports", all, frame(nil, v4, ipv4(6, 0, 0)[:22]), hash4},
	{"TCP on IPv6", all, frame(nil, v6, ipv6(6)), ports6},
	{"UDP on IPv6", all, frame(nil, v6, ipv6(17)), ports6},
	{"another protocol on IPv6", all, frame(nil, v6, ipv6(58)), hash6},
	{"UDP on IPv6, TCP hashed", rss.IPv6 | rss.TCPv6 | rss.UDPv4, frame(nil, v6, ipv6(17)), hash6},
	{"TCP on IPv6 with extensions", all, frame(nil, v6, ipv6(6, 0, 43, 60)), ports6},
	{"more extensions than are skipped", all, frame(nil, v6, ipv6(6, 0, 60, 43, 60, 60, 60, 60)), hash6},
	{"fragment of IPv6", all, frame(nil, v6, ipv6(6, 0, 44)), hash6},
	{"IPv6 that ends in an extension", all, frame(nil, v6, ipv6(6, 0)[:ipv6Size+1]), hash6},
	{"IPv6, IPv4 hashed", rss.IPv4 | rss.TCPv4 | rss.UDPv4, frame(nil, v6, ipv6(6)), none},
	{"VLAN", all, frame([]uint16{0x8100}, v4, ipv4(6, 0, 0)), ports4},
	{"VLAN in a VLAN", all, frame([]uint16{0x88a8, 0x8100}, v6, ipv6(6)), ports6},
	{"neither version of IP", all, taptest.Frame(taptest.Guest, taptest.Peer, 60), none},
	{"no types", 0, frame(nil, v4, ipv4(6, 0, 0)), none},
}

// TestEngine has the engine hash the same packets: what it reports and what the program goes by is one hash.
func TestEngine(t *testing.T) {
	for _, c := range packets {
		sum, report := rss.NewHasher(rss.Hash{Types: c.types, Key: microsoft}).Sum(c.frame[:min(len(c.frame), rss.Window)])
		want, reports := uint32(c.hash), []rss.Report{1, 4}
		switch c.hash {
		case none:
			want, reports = 0, []rss.Report{rss.None}
		case ports4:
			reports = []rss.Report{2, 3}
		case ports6:
			reports = []rss.Report{5, 6}
		}
		if sum != want || !slices.Contains(reports, report) {
			t.Errorf("%s: hash %#x, report %d, want %#x, one of %d", c.name, sum, report, want, reports)
		}
	}
}

// TestProgram sends packets through a real tap and looks in which of its queues they arrive.
func TestProgram(t *testing.T) {
	program, table, err := Open()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("needs the right to load BPF programs: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	defer table.Close()
	shared, err := unix.Mmap(int(table.Fd()), 0, rss.MapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(shared)
	tap := taptest.New(t, 4)
	for _, fd := range tap.FDs {
		defer unix.Close(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	queue, err := duplicate(tap.FDs[0], "tap")
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	if err := Detach(queue); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(tap.FDs[0], unix.TUNSETSTEERINGEBPF, int(program.Fd())); err != nil {
		t.Fatal(err)
	}
	for _, c := range packets {
		// One entry of the table, which nothing else leads to, is queue 3.
		config, want := rss.Config{Types: c.types, Unclassified: 2, Table: make([]uint16, rss.MaxTable), Key: microsoft}, 2
		for i := range config.Table {
			config.Table[i] = 1
		}
		if c.hash != none {
			config.Table[c.hash%rss.MaxTable], want = 3, 3
		}
		config.Store(shared)
		tap.Send(c.frame)
		if got := arrives(t, tap, c.frame); got != want {
			t.Errorf("%s: in queue %d, want %d", c.name, got, want)
		}
	}
}

// arrives returns the queue in which a frame is.
func arrives(t *testing.T, tap *taptest.Tap, frame []byte) int {
	t.Helper()
	fds := make([]unix.PollFd, len(tap.FDs))
	buf := make([]byte, 4096)
	for {
		for i, fd := range tap.FDs {
			fds[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		}
		if n, err := unix.Poll(fds, 10000); err == unix.EINTR {
			continue
		} else if err != nil || n == 0 {
			t.Fatalf("the packet does not come: %v", err)
		}
		for i, fd := range tap.FDs {
			// other packets are the network namespace's own
			if n, err := unix.Read(fd, buf); err == nil && bytes.HasSuffix(buf[:n], frame) {
				return i
			}
		}
	}
}
