package dhcp

import (
	"net/netip"
	"time"
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

	BootFile   string     `json:"bootFile,omitempty"`   // what a guest boots from the network
	BootServer netip.Addr `json:"bootServer,omitempty"` // who has it; invalid: the server
}

// Range is addresses to give to whoever asks, from first to last.
type Range struct {
	First netip.Addr    `json:"first"`
	Last  netip.Addr    `json:"last"`
	Lease time.Duration `json:"lease,omitempty"` // 0: DefaultLease, negative: for ever
}

// Host is a guest with an address or name of its own, told by its MAC address or client identifier.
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
	Expires  time.Time  `json:"expires"` // zero: never
	Bits     int        `json:"bits"`    // length of the subnet
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
