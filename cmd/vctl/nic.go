package main

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func nicCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "nic", Category: "Devices", Usage: "attach network interfaces to domains and detach them", Description: affectHelp,
		Subcommands: []*cli.Command{
			{Name: "attach", Usage: "attach a virtio interface to a bridge or virtual network", ArgsUsage: "DOMAIN",
				Description: "Either --bridge or --network says where it belongs.\n\n" +
					"    vctl nic attach demo --network default --live --config",
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "bridge", Usage: "put it on the host's bridge `NAME`"},
					&cli.StringFlag{Name: "network", Usage: "put it on the virtual network `NAME`"},
					&cli.StringFlag{Name: "mac", Usage: "its `ADDRESS`; one is made up without"},
					&cli.StringFlag{Name: "driver", Usage: "`BACKEND` on the host: qemu (in the engine) or vhost (in the kernel)"},
					&cli.UintFlag{Name: "queues", Usage: "it has `N` pairs of queues"},
				}, affectOptions()...), Action: withDomain(nicAttach), BashComplete: complete(anyDomain)},
			{Name: "detach", Usage: "detach an interface", ArgsUsage: "DOMAIN MAC", Flags: affectOptions(),
				Description: "A running guest is asked to let go of the interface: it is in use until it did.",
				Action:      withDomain(nicDetach), BashComplete: complete(anyDomain, nicMACs)},
		},
	}}
}

func nicAttach(c *cli.Context, s *session, d libvirt.Domain) error {
	text, err := nicXML(c)
	if err != nil {
		return err
	}
	if err := s.DomainAttachDeviceFlags(d, text, affected(c)); err != nil {
		return fmt.Errorf("failed to attach interface: %w", err)
	}
	return done(c, "Interface attached successfully")
}

// nicXML is the interface that the flags describe.
func nicXML(c *cli.Context) (string, error) {
	kind, name := "bridge", c.String("bridge")
	switch network := c.String("network"); {
	case name != "" && network != "":
		return "", errors.New("options --bridge and --network exclude each other")
	case network != "":
		kind, name = "network", network
	case name == "":
		return "", errors.New("say where it belongs: --bridge NAME or --network NAME")
	}
	var text strings.Builder
	fmt.Fprintf(&text, "<interface type='%s'><source %s='%s'/><model type='virtio'/>", kind, kind, escape(name))
	if mac := c.String("mac"); mac != "" {
		if _, err := net.ParseMAC(mac); err != nil {
			return "", fmt.Errorf("invalid MAC address '%s'", mac)
		}
		fmt.Fprintf(&text, "<mac address='%s'/>", escape(mac))
	}
	driver, queues := c.String("driver"), c.Uint("queues")
	if driver != "" && driver != "qemu" && driver != "vhost" {
		return "", fmt.Errorf("interface driver '%s': use qemu or vhost", driver)
	}
	if driver != "" || c.IsSet("queues") {
		text.WriteString("<driver")
		if driver != "" {
			fmt.Fprintf(&text, " name='%s'", driver)
		}
		if c.IsSet("queues") {
			fmt.Fprintf(&text, " queues='%d'", queues)
		}
		text.WriteString("/>")
	}
	text.WriteString("</interface>")
	return text.String(), nil
}

func nicDetach(c *cli.Context, s *session, d libvirt.Domain) error {
	mac := c.Args().Get(1)
	v, err := s.findDevice(c, d, func(v domainDevice) bool { return v.Kind == "interface" && strings.EqualFold(v.Target, mac) })
	if err == nil && v == nil {
		err = fmt.Errorf("no interface with MAC address %s was found", mac)
	}
	if err == nil {
		err = s.DomainDetachDeviceFlags(d, v.anywhere(c), affected(c))
	}
	if err != nil {
		return fmt.Errorf("failed to detach interface: %w", err)
	}
	return done(c, "Interface detached successfully")
}

var pciAddress = regexp.MustCompile(`\s*<address type='pci'[^>]*/>`)

// anywhere is the XML of an interface to detach: without its address if it is to go from the running domain and from the
// definition, where it can have another one. A hostdev interface has an address of the host too, and keeps both.
func (v *domainDevice) anywhere(c *cli.Context) string {
	if affected(c) != affectLive|affectConfig || v.typ == "hostdev" {
		return v.text
	}
	return pciAddress.ReplaceAllString(v.text, "")
}
