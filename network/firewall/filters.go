package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Filter is what a guest's interface may send and get (<filterref>): one of libvirt's standard filters with its variables.
type Filter struct {
	Name string       `json:"name"`
	MAC  string       `json:"mac"`            // $MAC: the interface's own
	IP   []netip.Addr `json:"ip,omitempty"`   // $IP: what it may have; none: what is learned
	IPv6 []netip.Addr `json:"ipv6,omitempty"` // $IPV6
	// DHCPServers is $DHCPSERVER: whose answers count.
	DHCPServers []netip.Addr `json:"dhcpServers,omitempty"`
	Gateways    []string     `json:"gateways,omitempty"` // $GATEWAY_MAC: whom alone the guest talks with
	// Learn is $CTRL_IP_LEARNING: any for the first address that the interface uses, dhcp for those that it is leased.
	Learn string `json:"learn,omitempty"`
}

// ReadFilter reads an interface's <filterref>, nil where there is none. It refuses filters that do not exist and variables that
// have no value, with libvirt's texts: this is asked when a domain starts.
func ReadFilter(nic *xmltree.Node) (*Filter, error) {
	n := nic.Child("filterref")
	if n == nil {
		return nil, nil
	}
	f := &Filter{Name: n.Attr("filter"), MAC: nic.Child("mac").Attr("address"), Learn: learnAny}
	if _, known := filters[f.Name]; !known {
		return nil, refuse(virterr.InternalError, "referenced filter '%s' is missing (there are %s)", f.Name, strings.Join(FilterNames(), ", "))
	}
	for _, p := range n.All("parameter") {
		if err := f.parameter(p.Attr("name"), p.Attr("value")); err != nil {
			return nil, err
		}
	}
	return f, f.complete()
}

// Where an address comes from that nobody said.
const (
	learnAny  = "any"
	learnDHCP = "dhcp"
	learnNone = "none"
)

func (f *Filter) parameter(name, value string) error {
	to := map[string]*[]netip.Addr{"IP": &f.IP, "IPV6": &f.IPv6, "DHCPSERVER": &f.DHCPServers}[name]
	switch {
	case to != nil:
		a, err := netip.ParseAddr(value)
		if err != nil || a.Zone() != "" || a.Is4In6() || name == "IP" && !a.Is4() || name == "IPV6" && !a.Is6() {
			return refuse(virterr.XMLError, "parameter %s of filter '%s' is not an address: '%s'", name, f.Name, value)
		}
		if *to = append(*to, a); len(*to) > maxAddresses {
			return refuse(virterr.ConfigUnsupported, "filter '%s' has more than %d values of %s", f.Name, maxAddresses, name)
		}
	case name == "GATEWAY_MAC":
		mac, err := net.ParseMAC(value)
		if err != nil || len(mac) != 6 {
			return refuse(virterr.XMLError, "parameter GATEWAY_MAC of filter '%s' is not a MAC address: '%s'", f.Name, value)
		}
		if f.Gateways = append(f.Gateways, mac.String()); len(f.Gateways) > maxAddresses {
			return refuse(virterr.ConfigUnsupported, "filter '%s' has more than %d values of GATEWAY_MAC", f.Name, maxAddresses)
		}
	case name == "CTRL_IP_LEARNING":
		if f.Learn = value; value != learnAny && value != learnDHCP && value != learnNone {
			return refuse(virterr.XMLError, "CTRL_IP_LEARNING of filter '%s' is any, dhcp or none, not '%s'", f.Name, value)
		}
	case name == "MAC":
		if mac, err := net.ParseMAC(value); err != nil || mac.String() != f.MAC {
			return refuse(virterr.ConfigUnsupported, "parameter MAC of filter '%s' is always the interface's own address, %s", f.Name, f.MAC)
		}
	}
	return nil // variables that a filter does not have are no mistake, as in libvirt
}

// maxAddresses bounds the values of a variable, and the addresses that are learned from leases.
const maxAddresses = 64

// complete refuses a filter whose variables have no value.
func (f *Filter) complete() error {
	unresolved := func(name string) error {
		return refuse(virterr.InternalError, "Cannot instantiate filter due to unresolvable variables or unavailable list elements: %s "+
			"(filter '%s' of the interface with MAC address %s)", name, f.Name, f.MAC)
	}
	for _, s := range f.steps() {
		switch {
		case (s.kind == checkIP || s.kind == checkARPIP) && len(f.IP) == 0 && f.Learn == learnNone:
			return unresolved("IP")
		case s.kind == checkIPv6 && len(f.IPv6) == 0:
			return unresolved("IPV6")
		case (s.kind == allowDHCPServer || s.kind == allowDHCPv6Server) && len(f.DHCPServers) == 0:
			return unresolved("DHCPSERVER")
		case s.kind == acceptGateway && len(f.Gateways) == 0:
			return unresolved("GATEWAY_MAC")
		}
	}
	if _, err := net.ParseMAC(f.MAC); err != nil {
		return unresolved("MAC")
	}
	return nil
}

func refuse(code virterr.Code, format string, args ...any) error {
	return virterr.NewFrom(virterr.FromNWFilter, code, format, args...)
}

// FilterNames returns the names of the filters that there are.
func FilterNames() []string {
	var out []string
	for name := range filters {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// step is one thing that a filter does. Steps have libvirt's priorities, which say in what order those of all filters of an
// interface come; a packet that none decides about passes.
type step struct {
	priority int
	kind     stepKind
}

type stepKind int

// What steps do. A check drops what the guest sends with an address that is not its own, and lets the others go on to the
// steps that follow.
const (
	checkMAC stepKind = iota
	checkIP
	checkIPv6
	checkARPMAC
	checkARPIP
	dropMulticast
	dropMulticast6
	dropBroadcast
	dropRARP
	dropAll
	acceptARP
	acceptIPv4
	acceptIPv6
	acceptIPv4In
	acceptIPv6In
	allowDHCP
	allowDHCPServer
	allowDHCPv6
	allowDHCPv6Server
	announce // RARP with which a hypervisor tells switches where a guest is
	announceOdd
	acceptGateway
)

// filters are libvirt's standard filters. clear-traffic is another name of clean-traffic.
var filters = map[string][]step{
	"no-mac-spoofing":         {{-800, checkMAC}},
	"no-ip-spoofing":          {{-710, checkIP}},
	"no-ipv6-spoofing":        {{-610, checkIPv6}},
	"no-arp-mac-spoofing":     {{-520, checkARPMAC}},
	"no-arp-ip-spoofing":      {{-510, checkARPIP}},
	"no-arp-spoofing":         {{-520, checkARPMAC}, {-510, checkARPIP}},
	"no-ip-multicast":         {{-700, dropMulticast}},
	"no-ipv6-multicast":       {{-600, dropMulticast6}},
	"no-mac-broadcast":        {{-700, dropBroadcast}},
	"no-other-l2-traffic":     {{1000, dropAll}},
	"no-other-rarp-traffic":   {{-390, dropRARP}},
	"allow-arp":               {{-500, acceptARP}},
	"allow-ipv4":              {{-700, acceptIPv4}},
	"allow-ipv6":              {{-600, acceptIPv6}},
	"allow-incoming-ipv4":     {{-700, acceptIPv4In}},
	"allow-incoming-ipv6":     {{-600, acceptIPv6In}},
	"allow-dhcp":              {{-700, allowDHCP}},
	"allow-dhcp-server":       {{-700, allowDHCPServer}},
	"allow-dhcpv6":            {{-600, allowDHCPv6}},
	"allow-dhcpv6-server":     {{-600, allowDHCPv6Server}},
	"qemu-announce-self":      {{-400, announce}, {500, announceOdd}},
	"qemu-announce-self-rarp": {{-400, announce}},
	"clean-traffic":           cleanTraffic,
	"clear-traffic":           cleanTraffic,
	"clean-traffic-gateway": {{-800, checkMAC}, {-710, checkIP}, {-520, checkARPMAC}, {-510, checkARPIP}, {-500, acceptARP}, {-400, announce},
		{500, acceptGateway}, {1000, dropAll}},
}

var cleanTraffic = []step{{-800, checkMAC}, {-710, checkIP}, {-650, acceptIPv4}, {-520, checkARPMAC}, {-510, checkARPIP}, {-500, acceptARP},
	{-400, announce}, {500, announceOdd}, {1000, dropAll}}

// steps are a filter's, in order.
func (f *Filter) steps() []step {
	out := slices.Clone(filters[f.Name])
	slices.SortStableFunc(out, func(a, b step) int { return a.priority - b.priority })
	return out
}

// learns reports whether the filter finds out the guest's address by itself.
func (f *Filter) learns() bool {
	return len(f.IP) == 0 && slices.ContainsFunc(f.steps(), func(s step) bool { return s.kind == checkIP || s.kind == checkARPIP })
}

// String names the filter.
func (f *Filter) String() string { return fmt.Sprintf("%s for %s", f.Name, f.MAC) }
