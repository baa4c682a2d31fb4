package rss

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"testing"

	"golang.org/x/sys/unix"
)

// What is a hash of which packets, is tested together with the program of taps, which has to agree (driver/kvm/steering).

// FuzzSum hashes what senders put into packets. Whatever they say of lengths, nothing but what is there is looked at, and a hash
// is of a type that was asked for.
func FuzzSum(f *testing.F) {
	ipv4 := append(make([]byte, ethernetSize), []byte{0: 0x45, 9: unix.IPPROTO_UDP, 23: 1}...)
	binary.BigEndian.PutUint16(ipv4[12:], unix.ETH_P_IP)
	ipv6 := append(make([]byte, ethernetSize), []byte{6: unix.IPPROTO_HOPOPTS, 40: unix.IPPROTO_TCP, 41: 0, 51: 1}...)
	binary.BigEndian.PutUint16(ipv6[12:], unix.ETH_P_IPV6)
	f.Add(uint32(Supported), ipv4)
	f.Add(uint32(Supported), ipv6)
	f.Add(UDPv4, append(ipv4[:12:12], append([]byte{0x81, 0, 0, 5}, ipv4[12:]...)...))
	f.Fuzz(func(t *testing.T, types uint32, packet []byte) {
		types &= Supported
		h := NewHasher(Hash{Types: types, Key: microsoft})
		sum, report := h.Sum(packet[:min(len(packet), Window)])
		if report == None {
			if sum != 0 {
				t.Errorf("hash %#x of nothing", sum)
			}
			return
		}
		if bits.Len32(types) < int(report) || types>>(report-1)&1 == 0 {
			t.Errorf("report %d for types %#x", report, types)
		}
		// The memory of the program has the same table.
		m := make([]byte, MapSize)
		(&Config{Table: []uint16{0}, Key: microsoft}).Store(m)
		if !holds(m, packet, sum) {
			t.Errorf("hash %#x is of no addresses in the packet", sum)
		}
	})
}

// holds looks for what has a hash at any place of a packet: addresses, and addresses with ports anywhere behind them.
func holds(m, packet []byte, sum uint32) bool {
	for _, n := range []int{8, 32} {
		for at := 0; at+n <= len(packet); at++ {
			if hash(m, packet[at:at+n]) == sum {
				return true
			}
			for ports := at + n; ports+portsSize <= len(packet); ports++ {
				if hash(m, append(bytes.Clone(packet[at:at+n]), packet[ports:ports+portsSize]...)) == sum {
					return true
				}
			}
		}
	}
	return false
}

// BenchmarkSum measures a hash of addresses and ports.
func BenchmarkSum(b *testing.B) {
	h := NewHasher(Hash{Types: Supported, Key: microsoft})
	for name, header := range map[string][]byte{
		"IPv4": {0: 0x45, 9: unix.IPPROTO_UDP, 100: 0}, "IPv6": {0: 0x60, 6: unix.IPPROTO_TCP, 100: 0},
	} {
		packet := append(make([]byte, ethernetSize), header...)
		binary.BigEndian.PutUint16(packet[12:], map[string]uint16{"IPv4": unix.ETH_P_IP, "IPv6": unix.ETH_P_IPV6}[name])
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, report := h.Sum(packet); report == None {
					b.Fatal("no hash")
				}
			}
		})
	}
}

// BenchmarkNewHasher measures what a command of the driver costs.
func BenchmarkNewHasher(b *testing.B) {
	for b.Loop() {
		NewHasher(Hash{Types: Supported, Key: microsoft})
	}
}
