package usernet

import "net/netip"

// Descriptors of our own process.
const (
	FDSocket = 3 // the engine's stream socket
	FDConfig = 4 // reads Config
	FDStatus = 5 // writes Report
)

// Report is what our own process says when it is ready, or why it will never be.
type Report struct {
	Error   string   `json:"error,omitempty"`
	Missing []string `json:"missing,omitempty"` // protection that this host does not offer
}

// Plan is who is where in the subnet of our own process.
type Plan struct {
	Guest  netip.Prefix
	Router netip.Addr // answers DHCP and DNS too
	Host   netip.Addr // stands for the host's 127.0.0.1
}

// Plan returns who is where.
func (c *Config) Plan() Plan {
	g := c.guest()
	return Plan{Guest: g, Router: nth(g, ownRouter), Host: nth(g, ownHost)}
}
