package main

import (
	"fmt"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func deviceCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "device", Category: "Devices", Usage: "attach devices to domains, detach them, list them",
		Description: affectHelp,
		Subcommands: []*cli.Command{
			{Name: "attach", Usage: "attach the device that an XML file describes", ArgsUsage: "DOMAIN FILE",
				Description: "FILE - is standard input.", Flags: affectOptions(), Action: withDomain(deviceAttach),
				BashComplete: complete(anyDomain)},
			{Name: "detach", Usage: "detach a device", ArgsUsage: "DOMAIN ALIAS|FILE",
				Description: "ALIAS is the device's name in device list. FILE, known by its dot or slash, has the device's XML; - is standard input.\n" +
					"A running guest is asked to let go of the device: it stays in the list until it did.",
				Flags: affectOptions(), Action: withDomain(deviceDetach), BashComplete: complete(anyDomain, deviceAliases)},
			{Name: "list", Aliases: []string{"ls"}, Usage: "list a domain's devices, and what of the host is behind them", ArgsUsage: "DOMAIN",
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "inactive", Usage: "those that the next start uses"}},
				Action: withDomain(deviceList), BashComplete: complete(anyDomain)},
		},
	}}
}

// affectHelp says what commands about devices change.
const affectHelp = "Without flags a running domain changes until it stops, one that is off for good."

// affectOptions are the flags that say what a command changes.
func affectOptions() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "live", Usage: "change the running domain"},
		&cli.BoolFlag{Name: "config", Usage: "change the definition that the next start uses"},
	}
}

// VIR_DOMAIN_AFFECT_LIVE and VIR_DOMAIN_AFFECT_CONFIG.
const (
	affectLive   = 1
	affectConfig = 2
)

// affected is what the flags say, 0 (VIR_DOMAIN_AFFECT_CURRENT) without any.
func affected(c *cli.Context) uint32 {
	var flags uint32
	if c.Bool("live") {
		flags |= affectLive
	}
	if c.Bool("config") {
		flags |= affectConfig
	}
	return flags
}

func deviceAttach(c *cli.Context, s *session, d libvirt.Domain) error {
	file := c.Args().Get(1)
	xml, err := readDocument(c, file)
	if err != nil {
		return err
	}
	if err := s.DomainAttachDeviceFlags(d, xml, affected(c)); err != nil {
		return fmt.Errorf("failed to attach device from %s: %w", file, err)
	}
	return done(c, "Device attached successfully")
}

// deviceDetach takes an alias or a file: an alias has letters, digits, dashes and underscores only.
func deviceDetach(c *cli.Context, s *session, d libvirt.Domain) error {
	what := c.Args().Get(1)
	if what != "-" && !strings.ContainsAny(what, "./") {
		if err := s.DomainDetachDeviceAlias(d, what, affected(c)); err != nil {
			return fmt.Errorf("failed to detach device with alias %s: %w", what, err)
		}
		return done(c, "Device detach request sent successfully")
	}
	xml, err := readDocument(c, what)
	if err != nil {
		return err
	}
	if err := s.DomainDetachDeviceFlags(d, xml, affected(c)); err != nil {
		return fmt.Errorf("failed to detach device from %s: %w", what, err)
	}
	return done(c, "Device detached successfully")
}
