package network

import (
	"net"
	"net/netip"

	"github.com/google/uuid"

	"virtd/network/bridge"
	"virtd/network/dhcp"
	"virtd/network/dns"
	"virtd/network/portconf"
	"virtd/network/services"
)

// Host is what networks do to the host that they are on. The manager makes changes one at a time, and asks at any time. Local is the
// real one; networktest has a fake.
type Host interface {
	// LinkExists reports whether the host has a network link of that name.
	LinkExists(name string) (bool, error)
	// Routes returns the subnets that the host reaches, other than by default routes.
	Routes() ([]HostRoute, error)

	// Up makes the network's bridge with its addresses and routes. What is there already is completed.
	Up(s Spec) error
	// Shape sets the rates of a network's bridge, and the floors that its interfaces have.
	Shape(s Spec, floors []bridge.Floor) error
	// Down removes the bridge. One that is gone is no error.
	Down(s Spec) error
	// Filter replaces the rules of all networks by those of the given ones, in one step.
	Filter(list []Spec) error
	// Filtered reports whether the rules are those of exactly the given networks.
	Filtered(list []Spec) (bool, error)
	// OpenOthers has the packet filters of others let the given networks through, and no others, where the host is set up so.
	OpenOthers(list []Spec) error
	// Serve starts what leases addresses and answers DNS on the network, or tells it of a change.
	Serve(s Spec) error
	// StopServing ends it.
	StopServing(id uuid.UUID) error
	// HostLinkUp makes the link by which the host takes part in a pool of links, and HostLinkDown removes it; one that is
	// there already is completed, one that is gone is no error.
	HostLinkUp(s Spec) error
	HostLinkDown(s Spec) error
	// Functions returns the virtual functions of the card with that interface, in the order of their numbers.
	Functions(pf string) ([]portconf.Function, error)
	// FunctionFree says why a virtual function can be given to no guest now, nil if it can. managed: also from its driver.
	FunctionFree(f portconf.Function, managed bool) error
	// Plug makes a tap a port of a bridge.
	Plug(bridge, tap string, isolated bool) error
	// Leases returns the leases of a network that is being served.
	Leases(id uuid.UUID) ([]dhcp.Lease, error)
	// ForgetLeases removes what is stored of a network's leases.
	ForgetLeases(id uuid.UUID) error
}

// HostRoute is a subnet that the host reaches through a link.
type HostRoute struct {
	Prefix netip.Prefix
	Link   string
}

// Spec is a network as the host has to have it.
type Spec struct {
	UUID uuid.UUID
	Name string
	Mode Mode

	Bridge     string
	Zone       string // of firewalld, where the host is set up to use it; "" for the host's choice
	STP        bool
	Delay      int // seconds
	MTU        int // bytes; 0: the kernel's
	MAC        net.HardwareAddr
	Addresses  []netip.Prefix // of the host on the bridge, with the subnets' lengths
	Routes     []SpecRoute
	Limits     portconf.Bandwidth
	Device     string // forward through this link of the host only; "" for any
	NATIPv6    bool
	NATSources [2]netip.Addr // translate to these; invalid: to the address of the link that a packet leaves by
	NATPorts   [2]uint16

	HostLink    netip.Prefix   // address of the host in a pool of links on Device; invalid: it takes no part
	HostLinkFor []netip.Prefix // guests that the host reaches through it

	DHCP []dhcp.Config // one of each family at most
	DNS  *dns.Config   // nil: not served
	RA   []netip.Prefix
	TFTP services.TFTP
	IPv6 bool // guests may speak IPv6 with each other although the network has no IPv6 address
}

// SpecRoute is a route through a guest.
type SpecRoute struct {
	To      netip.Prefix
	Gateway netip.Addr
	Metric  int // 0: the kernel's
}

// spec is the definition as the host has to have it.
func (d *definition) spec() Spec {
	s := Spec{
		UUID: d.uuid, Name: d.name, Mode: d.forward.mode, Bridge: d.bridge, Zone: d.zone(), STP: d.stp, Delay: d.delay, MTU: d.mtu, MAC: d.mac, Limits: d.limits,
		Device: d.forward.dev, NATIPv6: d.forward.ipv6, NATSources: d.forward.sources, NATPorts: d.forward.ports,
		IPv6: d.doc.Root.Attr("ipv6") == "yes",
	}
	if d.host != nil {
		s.HostLink, s.HostLinkFor = d.host.address, d.host.guests
	}
	for _, r := range d.routes {
		s.Routes = append(s.Routes, SpecRoute{r.to, r.gateway, r.metric})
	}
	if !d.dns.off && len(d.ips) > 0 {
		s.DNS = d.resolver()
	}
	for _, ip := range d.ips {
		s.Addresses = append(s.Addresses, ip.prefix)
		if ip.prefix.Addr().Is6() && (ip.prefix.Bits() == 64 || ip.dhcp != nil) {
			s.RA = append(s.RA, ip.prefix)
		}
		if ip.tftp != "" {
			s.TFTP = services.TFTP{Root: ip.tftp, Addr: ip.prefix.Addr()}
		}
		if ip.dhcp != nil {
			s.DHCP = append(s.DHCP, dhcp.Config{
				Server: ip.prefix, Ranges: ip.dhcp.ranges, Hosts: ip.dhcp.hosts, Domain: d.domain, Router: d.forward.mode != ModeIsolated,
				Resolver: s.DNS != nil, MTU: d.mtu, ID: d.uuid, BootFile: ip.dhcp.bootFile, BootServer: ip.dhcp.bootServer,
			})
		}
	}
	return s
}

// zone is firewalld's that the document names.
func (d *definition) zone() string {
	if b := d.doc.Root.Child("bridge"); b != nil {
		return b.Attr("zone")
	}
	return ""
}

// resolver is what the network's resolver knows. An isolated network asks nobody else, as in libvirt: its guests shall not
// reach anything through the host.
func (d *definition) resolver() *dns.Config {
	c := &dns.Config{
		Domain: d.domain, LocalOnly: d.localOnly, NoPlainNames: d.dns.noPlain, Hosts: d.dns.hosts, TXT: d.dns.txt, SRV: d.dns.srv,
		Forwarders: d.dns.forwarders, NoResolv: d.forward.mode == ModeIsolated,
	}
	for _, ip := range d.ips {
		if ip.dhcp == nil {
			continue
		}
		for _, h := range ip.dhcp.hosts {
			if h.Name != "" && h.IP.IsValid() {
				c.Hosts = append(c.Hosts[:len(c.Hosts):len(c.Hosts)], dns.Host{IP: h.IP, Names: []string{h.Name}})
			}
		}
	}
	for _, f := range d.dns.forwarders {
		if f.Domain == "" && f.Addr.IsValid() { // somebody is named for everything
			c.NoResolv = true
		}
	}
	return c
}
