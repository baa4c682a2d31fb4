package dhcp

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/google/uuid"
)

// Config is one subnet that is leased. It is plain data: virtd sends it to the process that serves.
type Config struct {
	Server netip.Prefix `json:"server"` // the host's address on the network, with the subnet's length
	Ranges []Range      `json:"ranges,omitempty"`
	Hosts  []Host       `json:"hosts,omitempty"`

	Domain   string `json:"domain,omitempty"` // of the guests
	Router   bool   `json:"router"`           // guests reach the world through the server
	Resolver bool   `json:"resolver"`         // the server answers DNS
	MTU      int    `json:"mtu,omitempty"`    // bytes; 0 is not told

	// ID tells this server from others by IPv6 (RFC 6355).
	ID uuid.UUID `json:"id,omitzero"`

	BootFile   string     `json:"bootFile,omitempty"`   // what a guest boots from the network
	BootServer netip.Addr `json:"bootServer,omitempty"` // who has it; invalid: the server
}

// Range is addresses to give to whoever asks, from first to last.
type Range struct {
	First netip.Addr    `json:"first"`
	Last  netip.Addr    `json:"last"`
	Lease time.Duration `json:"lease,omitempty"` // 0: DefaultLease, negative: for ever
}

// Size is the number of addresses, more than MaxAddresses where the two ends have not the first 64 bits in common.
func (r Range) Size() uint64 {
	first, last := r.First.As16(), r.Last.As16()
	if [8]byte(first[:8]) != [8]byte(last[:8]) {
		return math.MaxUint64
	}
	n := binary.BigEndian.Uint64(last[8:]) - binary.BigEndian.Uint64(first[8:])
	return max(n, n+1)
}

// Host is a guest with an address or name of its own, told by its MAC address or client identifier; by IPv6, where there is no
// MAC address, by its unique identifier (DUID) or, without that, by its name.
type Host struct {
	MAC   string        `json:"mac,omitempty"` // as net.HardwareAddr prints it
	ID    string        `json:"id,omitempty"`  // client identifier: hexadecimal bytes with colons, or text
	Name  string        `json:"name,omitempty"`
	IP    netip.Addr    `json:"ip"`
	Lease time.Duration `json:"lease,omitempty"`
}

// Lease is an address that a guest has.
type Lease struct {
	IP       netip.Addr `json:"ip"`
	MAC      string     `json:"mac"`
	ClientID string     `json:"clientID,omitempty"` // hexadecimal bytes with colons
	Name     string     `json:"name,omitempty"`
	Expires  time.Time  `json:"expires"`        // zero: never
	Bits     int        `json:"bits"`           // length of the subnet
	IAID     uint32     `json:"iaid,omitempty"` // of the guest's interface, by IPv6
}

// Bounds of what is served.
const (
	DefaultLease = time.Hour
	MinLease     = 2 * time.Minute

	// MaxAddresses bounds all ranges of a subnet, and with it what a flood of clients can make the server remember.
	MaxAddresses = 1 << 16
	// MaxHosts bounds the static hosts of a subnet.
	MaxHosts = 1 << 14
)
