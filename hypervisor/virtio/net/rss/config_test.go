package rss

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// microsoft are the key and the values by which an implementation is verified ("Verifying the RSS Hash Calculation" in the
// documentation of Windows drivers).
var microsoft = [KeySize]byte{
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
	0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
}

func TestHashes(t *testing.T) {
	m := make([]byte, MapSize)
	(&Config{Table: []uint16{0}, Key: microsoft}).Store(m)
	for _, c := range []struct {
		to, from         string
		addresses, ports uint32
	}{
		{"161.142.100.80:1766", "66.9.149.187:2794", 0x323e8fc2, 0x51ccc178},
		{"65.69.140.83:4739", "199.92.111.2:14230", 0xd718262a, 0xc626b0ea},
		{"12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0a5de, 0x5c2b394a},
		{"209.142.163.6:2217", "38.27.205.30:48228", 0x82989176, 0xafc7327f},
		{"202.188.127.2:1303", "153.39.163.191:44251", 0x5d1809c5, 0x10e828a2},
		{"[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc18cd5, 0x40207d3d},
		{"[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c461c, 0xdde51bbf},
		{"[fe80::200:f8ff:fe21:67cf]:38024", "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", 0x4b61e985, 0x02d1feef},
	} {
		to, from := netip.MustParseAddrPort(c.to), netip.MustParseAddrPort(c.from)
		input := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
		if got := hash(m, input); got != c.addresses {
			t.Errorf("%s to %s: %#08x, want %#08x", c.from, c.to, got, c.addresses)
		}
		input = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(input, from.Port()), to.Port())
		if got := hash(m, input); got != c.ports {
			t.Errorf("%s to %s with ports: %#08x, want %#08x", c.from, c.to, got, c.ports)
		}
	}
}

// hash adds up what Store wrote as the program does.
func hash(m, input []byte) (sum uint32) {
	for i, b := range input {
		sum ^= binary.NativeEndian.Uint32(m[AtHashes+4*(256*i+int(b)):])
	}
	return sum
}

func TestCheck(t *testing.T) {
	good := Config{Types: Supported, Table: []uint16{0, 1, 2, 3}, MaxTx: 4}
	if err := good.Check(4); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*Config){
		"no table":                func(c *Config) { c.Table = nil },
		"table of 3":              func(c *Config) { c.Table = c.Table[:3] },
		"table of 256":            func(c *Config) { c.Table = make([]uint16, 256) },
		"queue beyond the last":   func(c *Config) { c.Table = []uint16{0, 4} },
		"unclassified beyond":     func(c *Config) { c.Unclassified = 4 },
		"no transmit queue":       func(c *Config) { c.MaxTx = 0 },
		"too many of them":        func(c *Config) { c.MaxTx = 5 },
		"extension header hashes": func(c *Config) { c.Types |= 1 << 6 },
	} {
		c := good
		if edit(&c); c.Check(4) == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
