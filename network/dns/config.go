package dns

import "net/netip"

// Config is what the resolver of one network knows by itself and whom it asks. It is plain data.
type Config struct {
	Domain       string      `json:"domain,omitempty"`    // of the guests
	LocalOnly    bool        `json:"localOnly,omitempty"` // names in Domain are never asked of others
	NoPlainNames bool        `json:"noPlainNames,omitempty"`
	Hosts        []Host      `json:"hosts,omitempty"`
	TXT          []TXT       `json:"txt,omitempty"`
	SRV          []SRV       `json:"srv,omitempty"`
	Forwarders   []Forwarder `json:"forwarders,omitempty"`
	// NoResolv keeps questions from the host's own resolvers: only Forwarders are asked.
	NoResolv bool `json:"noResolv,omitempty"`
}

// Host is the names of an address.
type Host struct {
	IP    netip.Addr `json:"ip"`
	Names []string   `json:"names"`
}

// TXT is a text record.
type TXT struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// SRV tells where a service is (RFC 2782).
type SRV struct {
	Service  string `json:"service"`
	Protocol string `json:"protocol"`
	Domain   string `json:"domain,omitempty"`
	Target   string `json:"target"`
	Port     uint16 `json:"port"`
	Priority uint16 `json:"priority"`
	Weight   uint16 `json:"weight"`
}

// Forwarder is who answers for a domain, or for everything without one. Without an address it is the host's resolvers.
type Forwarder struct {
	Domain string     `json:"domain,omitempty"`
	Addr   netip.Addr `json:"addr"`
}
