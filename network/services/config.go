package services

import (
	"net/netip"
	"slices"

	"github.com/google/uuid"

	"virtd/network/dhcp"
	"virtd/network/dns"
)

// Role is the argument by which this program becomes the services of a network.
const Role = "network-services"

// Config is what one network offers. It is plain data: the child gets it as JSON.
type Config struct {
	UUID   uuid.UUID `json:"uuid"`
	Name   string    `json:"name"`
	Bridge string    `json:"bridge"`

	DHCP  *dhcp.Config `json:"dhcp,omitempty"`
	DHCP6 *dhcp.Config `json:"dhcp6,omitempty"`
	DNS   *dns.Config  `json:"dns,omitempty"`
	// Listen are the host's addresses on the network, where DNS is answered.
	Listen []netip.Addr `json:"listen,omitempty"`
	// RA are the IPv6 subnets that guests are told of: to make addresses of their own in, or where DHCP6 leases.
	RA     []netip.Prefix `json:"ra,omitempty"`
	TFTP   TFTP           `json:"tftp,omitzero"`
	Router bool           `json:"router"` // guests reach the world through the host
	MTU    int            `json:"mtu,omitempty"`
}

// TFTP is files for guests to boot from.
type TFTP struct {
	Root string     `json:"root"` // the directory, "" for none
	Addr netip.Addr `json:"addr"` // where they are asked for
}

// Empty reports whether there is nothing to offer, and so no need for a process.
func (c Config) Empty() bool {
	return c.DHCP == nil && c.DHCP6 == nil && c.DNS == nil && len(c.RA) == 0 && c.TFTP.Root == ""
}

// sockets names the descriptors that the child needs, in order. A change of these needs a new child.
func (c Config) sockets() []string {
	var out []string
	if c.DHCP != nil {
		out = append(out, socketDHCP, socketFrames, fileLeases+"0", fileLeases+"1")
	}
	if c.DHCP6 != nil {
		out = append(out, socketDHCP6, fileLeases6+"0", fileLeases6+"1")
	}
	if c.DNS != nil {
		for _, a := range c.Listen {
			out = append(out, socketUDP+a.String(), socketTCP+a.String())
		}
	}
	if len(c.RA) > 0 {
		out = append(out, socketRA)
	}
	if c.TFTP.Root != "" {
		out = append(out, socketTFTP+c.TFTP.Addr.String(), dirTFTP+c.TFTP.Root)
	}
	return out
}

func (c Config) sameSockets(o Config) bool {
	return c.Bridge == o.Bridge && slices.Equal(c.sockets(), o.sockets())
}

// Names of descriptors.
const (
	socketDHCP   = "dhcp"    // UDP port 67 on the bridge
	socketFrames = "frames"  // packets to the bridge, with link-layer addresses
	fileLeases   = "leases." // two files
	socketDHCP6  = "dhcp6"   // UDP port 547 on the bridge
	fileLeases6  = "leases6."
	socketUDP    = "dns-udp:"
	socketTCP    = "dns-tcp:"
	socketRA     = "ra" // ICMPv6 on the bridge
	socketTFTP   = "tftp:"
	dirTFTP      = "tftp-root:"
)

// start is the first thing that a child reads.
type start struct {
	Config Config   `json:"config"`
	Files  []string `json:"files"` // names of the descriptors from firstFile on
}

// The child's descriptors: 0 is the null device, 1 and 2 the log.
const (
	fdConfig  = 3 // reads start
	fdControl = 4 // listening unix socket
	firstFile = 5
)

// request and response are one line each on the control socket.
type request struct {
	Op     string  `json:"op"`
	Config *Config `json:"config,omitempty"`
}

type response struct {
	Error  string       `json:"error,omitempty"`
	Leases []dhcp.Lease `json:"leases,omitempty"`
}

// What a request asks for.
const (
	opConfigure = "configure"
	opLeases    = "leases"
)
