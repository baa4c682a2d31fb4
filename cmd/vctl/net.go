package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"github.com/urfave/cli/v2"
)

func netCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "net", Category: "Networks", Usage: "manage virtual networks",
		Description: "NETWORK is a name or a UUID.",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list networks: active ones, or as the flags say",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "active and inactive"},
					&cli.BoolFlag{Name: "inactive", Usage: "inactive only"},
				}, Action: withSession(netList)},
			{Name: "info", Usage: "describe a network", ArgsUsage: "NETWORK", Action: withNet(netInfo), BashComplete: complete(networkNames)},
			{Name: "dumpxml", Usage: "print a network's XML", ArgsUsage: "NETWORK",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "inactive", Usage: "the definition that the next start uses"}}, Action: withNet(netDumpXML), BashComplete: complete(networkNames)},
			{Name: "define", Usage: "define a network from XML, or change its definition", ArgsUsage: "FILE",
				Description: "FILE - is standard input.", Action: netDefine},
			{Name: "create", Usage: "define a network, start it, and mark it for autostart", ArgsUsage: "NAME",
				Description: "CIDR is a subnet: the host gets its first address, guests lease the others. One of the options but --domain says what kind of network.\n\n" +
					"    vctl net create lab --nat 10.9.0.0/24 --domain lab.example\n" +
					"    vctl net create office --bridge br0",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "nat", Usage: "guests reach the world behind the host's address; subnet `CIDR`"},
					&cli.StringFlag{Name: "route", Usage: "guests reach the world with their own addresses; subnet `CIDR`"},
					&cli.StringFlag{Name: "isolated", Usage: "guests reach each other and the host; subnet `CIDR`"},
					&cli.StringFlag{Name: "bridge", Usage: "guests are on the host's existing bridge `NAME`"},
					&cli.StringFlag{Name: "vf-pool", Usage: "each guest has a virtual function of the card with the interface `PF` for itself"},
					&cli.StringFlag{Name: "domain", Usage: "guests' names are in the domain `NAME`"},
				}, Action: netCreate},
			netCommand("start", "start a network", "start", "Network '%s' started", nil,
				func(_ *cli.Context, s *session, n libvirt.Network) error { return s.NetworkCreate(n) }),
			netCommand("destroy", "stop a network; domains on it lose their link", "destroy", "Network '%s' destroyed", nil,
				func(_ *cli.Context, s *session, n libvirt.Network) error { return s.NetworkDestroy(n) }),
			netCommand("undefine", "remove a network's definition", "undefine", "Network '%s' has been undefined", nil,
				func(_ *cli.Context, s *session, n libvirt.Network) error { return s.NetworkUndefine(n) }),
			netCommand("autostart", "start a network when the host boots", "change autostart of", "Autostart of network '%s' changed",
				[]cli.Flag{&cli.BoolFlag{Name: "disable", Usage: "do not start it any more"}}, netAutostart),
			{Name: "leases", Usage: "list the addresses that guests have", ArgsUsage: "NETWORK", Action: withNet(netLeases), BashComplete: complete(networkNames)},
			{Name: "update", Usage: "change a part of a network", ArgsUsage: "NETWORK COMMAND SECTION XML",
				Description: "COMMAND is add, add-first, modify or delete; SECTION is ip-dhcp-host, ip-dhcp-range, portgroup, dns-host,\n" +
					"dns-txt or dns-srv; XML is the element. Without flags an active network changes until it stops, an inactive one for good.\n\n" +
					"    vctl net update lab add ip-dhcp-host \"<host mac='52:54:00:00:00:01' ip='10.9.0.20'/>\" --live --config",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "live", Usage: "change what runs"},
					&cli.BoolFlag{Name: "config", Usage: "change the definition"},
				}, Action: withNet(netUpdate), BashComplete: complete(networkNames, words("add", "add-first", "modify", "delete"),
					words("ip-dhcp-host", "ip-dhcp-range", "portgroup", "dns-host", "dns-txt", "dns-srv"))},
		},
	}}
}

// netCommand is a command that does one call on a network and says so.
func netCommand(name, usage, verb, said string, flags []cli.Flag, call func(*cli.Context, *session, libvirt.Network) error) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, ArgsUsage: "NETWORK", Flags: flags, BashComplete: complete(networkNames),
		Action: withNet(func(c *cli.Context, s *session, n libvirt.Network) error {
			if err := call(c, s, n); err != nil {
				return fmt.Errorf("failed to %s network '%s': %w", verb, n.Name, err)
			}
			return done(c, said, n.Name)
		})}
}

// withNet runs a command's body with the network that its first argument names.
func withNet(body func(*cli.Context, *session, libvirt.Network) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		return withSession(func(c *cli.Context, s *session) error {
			n, err := s.network(c.Args().First())
			if err != nil {
				return err
			}
			return body(c, s, n)
		})(c)
	}
}

// network finds a network by UUID, then by name.
func (s *session) network(arg string) (libvirt.Network, error) {
	if u, err := uuid.Parse(arg); err == nil {
		if n, err := s.NetworkLookupByUUID(libvirt.UUID(u)); err == nil {
			return n, nil
		}
	}
	n, err := s.NetworkLookupByName(arg)
	if err != nil {
		return n, fmt.Errorf("failed to get network '%s': %w", arg, err)
	}
	return n, nil
}

// netDescription is what list and info print of a network.
type netDescription struct {
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	State      string `json:"state"`
	Persistent bool   `json:"persistent"`
	Autostart  bool   `json:"autostart"`
	Bridge     string `json:"bridge"` // "" of a pool of links or functions

	// What info tells more.
	Forward   string        `json:"forward,omitempty"`
	PF        string        `json:"pf,omitempty"` // interface of the card whose functions the guests have
	Functions []netFunction `json:"functions,omitempty"`
}

func (s *session) describeNetwork(n libvirt.Network) (netDescription, error) {
	d := netDescription{Name: n.Name, UUID: uuid.UUID(n.UUID).String(), State: "inactive"}
	active, err := s.NetworkIsActive(n)
	if err != nil {
		return d, err
	}
	if active != 0 {
		d.State = "active"
	}
	persistent, err := s.NetworkIsPersistent(n)
	if err != nil {
		return d, err
	}
	auto, err := s.NetworkGetAutostart(n)
	if err != nil {
		return d, err
	}
	d.Persistent, d.Autostart = persistent != 0, auto != 0
	d.Bridge, err = s.NetworkGetBridgeName(n)
	var no libvirt.Error
	if errors.As(err, &no) && no.Code == uint32(libvirt.ErrInternalError) { // libvirt's way to say that it has none
		err = nil
	}
	return d, err
}

func netList(c *cli.Context, s *session) error {
	flags := libvirt.ConnectListNetworksActive
	switch {
	case c.Bool("all"):
		flags |= libvirt.ConnectListNetworksInactive
	case c.Bool("inactive"):
		flags = libvirt.ConnectListNetworksInactive
	}
	nets, _, err := s.ConnectListAllNetworks(1, flags)
	if err != nil {
		return err
	}
	out := make([]netDescription, 0, len(nets))
	for _, n := range nets {
		d, err := s.describeNetwork(n)
		if err != nil {
			continue // it went away since the list was made
		}
		out = append(out, d)
	}
	return emit(c, out, func(w io.Writer) error {
		rows := make([][]string, 0, len(out))
		for _, d := range out {
			rows = append(rows, []string{d.Name, d.State, yesNo(d.Autostart), yesNo(d.Persistent), d.Bridge})
		}
		return table(w, []string{"Name", "State", "Autostart", "Persistent", "Bridge"}, rows)
	})
}

func netInfo(c *cli.Context, s *session, n libvirt.Network) error {
	d, err := s.describeNetwork(n)
	if err == nil {
		err = s.describeForward(n, &d)
	}
	if err != nil {
		return err
	}
	return emit(c, d, func(w io.Writer) error {
		return describe(w, append([]field{{"Name", d.Name}, {"UUID", d.UUID}, {"State", d.State}, {"Persistent", yesNo(d.Persistent)},
			{"Autostart", yesNo(d.Autostart)}, {"Bridge", d.Bridge}}, d.poolFields()...))
	})
}

func netDumpXML(c *cli.Context, s *session, n libvirt.Network) error {
	flags := uint32(0)
	if c.Bool("inactive") {
		flags = uint32(libvirt.NetworkXMLInactive)
	}
	xml, err := s.NetworkGetXMLDesc(n, flags)
	if err != nil {
		return err
	}
	return emit(c, map[string]string{"name": n.Name, "xml": xml}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, xml)
		return err
	})
}

func netDefine(c *cli.Context) error {
	text, err := readDocument(c, c.Args().First())
	if err != nil {
		return err
	}
	return withSession(func(c *cli.Context, s *session) error {
		n, err := s.NetworkDefineXML(text)
		if err != nil {
			return fmt.Errorf("failed to define network from %s: %w", c.Args().First(), err)
		}
		return done(c, "Network '%s' defined from %s", n.Name, c.Args().First())
	})(c)
}

// netDocument is the XML of a network that net create makes.
func netDocument(c *cli.Context, name string) (string, error) {
	var mode, value string
	for _, m := range []string{"nat", "route", "isolated", "bridge", "vf-pool"} {
		if v := c.String(m); v != "" {
			if mode != "" {
				return "", fmt.Errorf("--%s and --%s exclude each other", mode, m)
			}
			mode, value = m, v
		}
	}
	domain := ""
	if d := c.String("domain"); d != "" {
		domain = "<domain name='" + escape(d) + "' localOnly='yes'/>"
	}
	head := "<network><name>" + escape(name) + "</name>"
	switch mode {
	case "":
		return "", errors.New("say what kind of network: --nat CIDR, --route CIDR, --isolated CIDR, --bridge NAME or --vf-pool PF")
	case "bridge":
		return head + "<forward mode='bridge'/><bridge name='" + escape(value) + "'/></network>", nil
	case "vf-pool":
		return head + "<forward mode='hostdev' managed='yes'><driver name='vfio'/><pf dev='" + escape(value) + "'/></forward></network>", nil
	case "isolated":
	default:
		head += "<forward mode='" + mode + "'/>"
	}
	ip, err := subnetElement(value)
	return head + domain + ip + "</network>", err
}

// subnetElement is <ip> for a subnet. All its addresses but the host's are leased, as far as the daemon takes.
func subnetElement(cidr string) (string, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", fmt.Errorf("'%s' is not a subnet such as 10.9.0.0/24", cidr)
	}
	host := p.Addr()
	if host == p.Masked().Addr() {
		host = host.Next()
	}
	if host.Is6() {
		return fmt.Sprintf("<ip family='ipv6' address='%s' prefix='%d'/>", host, p.Bits()), nil
	}
	if p.Bits() < 16 || p.Bits() > 29 {
		return "", fmt.Errorf("subnet %s: from 16 to 29 bits are possible here; net define takes others", cidr)
	}
	first := p.Masked().Addr().Next()
	if first == host {
		first = first.Next()
	}
	b := p.Masked().Addr().As4()
	size := uint32(1)<<(32-p.Bits()) - 2 // the last one is for broadcasts
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += size
	last := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	return fmt.Sprintf("<ip address='%s' prefix='%d'><dhcp><range start='%s' end='%s'/></dhcp></ip>", host, p.Bits(), first, last), nil
}

func netCreate(c *cli.Context) error {
	name := c.Args().First()
	text, err := netDocument(c, name)
	if err != nil {
		return err
	}
	return withSession(func(c *cli.Context, s *session) error {
		n, err := s.NetworkDefineXML(text)
		if err != nil {
			return fmt.Errorf("failed to define network '%s': %w", name, err)
		}
		err = s.NetworkCreate(n)
		if err == nil {
			err = s.NetworkSetAutostart(n, 1)
		}
		if err != nil {
			return fmt.Errorf("network '%s' is defined, but cannot be started: %w", name, err)
		}
		return done(c, "Network '%s' created; <interface type='network'><source network='%s'/></interface> puts a domain on it", name, name)
	})(c)
}

func netAutostart(c *cli.Context, s *session, n libvirt.Network) error {
	on := int32(1)
	if c.Bool("disable") {
		on = 0
	}
	return s.NetworkSetAutostart(n, on)
}

// lease is what leases prints of one.
type lease struct {
	Expires  string `json:"expires"` // RFC 3339; "" for never
	MAC      string `json:"mac"`
	Address  string `json:"address"`
	Hostname string `json:"hostname,omitempty"`
	ClientID string `json:"clientID,omitempty"`
}

func netLeases(c *cli.Context, s *session, n libvirt.Network) error {
	list, _, err := s.NetworkGetDhcpLeases(n, nil, 1, 0)
	if err != nil {
		return fmt.Errorf("failed to get the leases of network '%s': %w", n.Name, err)
	}
	out := make([]lease, 0, len(list))
	for _, l := range list {
		row := lease{Address: l.Ipaddr + "/" + strconv.Itoa(int(l.Prefix)), MAC: strings.Join(l.Mac, ""), Hostname: strings.Join(l.Hostname, ""), ClientID: strings.Join(l.Clientid, "")}
		if l.Expirytime != 0 {
			row.Expires = time.Unix(l.Expirytime, 0).Format(time.RFC3339)
		}
		out = append(out, row)
	}
	return emit(c, out, func(w io.Writer) error {
		rows := make([][]string, 0, len(out))
		for _, l := range out {
			rows = append(rows, []string{l.Address, l.MAC, dash(l.Hostname), dash(l.Expires)})
		}
		return table(w, []string{"Address", "MAC", "Hostname", "Expires"}, rows)
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func netUpdate(c *cli.Context, s *session, n libvirt.Network) error {
	commands := map[string]libvirt.NetworkUpdateCommand{"add": libvirt.NetworkUpdateCommandAddLast, "add-first": libvirt.NetworkUpdateCommandAddFirst,
		"modify": libvirt.NetworkUpdateCommandModify, "delete": libvirt.NetworkUpdateCommandDelete}
	sections := map[string]libvirt.NetworkUpdateSection{"ip-dhcp-host": libvirt.NetworkSectionIPDhcpHost, "ip-dhcp-range": libvirt.NetworkSectionIPDhcpRange,
		"portgroup": libvirt.NetworkSectionPortgroup,
		"dns-host":  libvirt.NetworkSectionDNSHost, "dns-txt": libvirt.NetworkSectionDNSTxt, "dns-srv": libvirt.NetworkSectionDNSSrv}
	command, known := commands[c.Args().Get(1)]
	if !known {
		return fmt.Errorf("command '%s': use add, add-first, modify or delete", c.Args().Get(1))
	}
	section, known := sections[c.Args().Get(2)]
	if !known {
		return fmt.Errorf("section '%s': use ip-dhcp-host, ip-dhcp-range, portgroup, dns-host, dns-txt or dns-srv", c.Args().Get(2))
	}
	flags := libvirt.NetworkUpdateAffectCurrent
	if c.Bool("live") {
		flags |= libvirt.NetworkUpdateAffectLive
	}
	if c.Bool("config") {
		flags |= libvirt.NetworkUpdateAffectConfig
	}
	if err := s.NetworkUpdate(n, uint32(command), uint32(section), -1, c.Args().Get(3), flags); err != nil {
		return fmt.Errorf("failed to update network '%s': %w", n.Name, err)
	}
	return done(c, "Network '%s' updated", n.Name)
}
