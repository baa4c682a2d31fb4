package main

import (
	"fmt"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// lifecycleCommand is a command that does one call on a domain and says so.
func lifecycleCommand(name, usage, verb, said string, which candidates, flags []cli.Flag, call func(*cli.Context, *session, libvirt.Domain) error) *cli.Command {
	return &cli.Command{
		Name: name, Category: "Running", Usage: usage, ArgsUsage: "DOMAIN", Flags: flags, BashComplete: complete(which),
		Action: withDomain(func(c *cli.Context, s *session, d libvirt.Domain) error {
			if err := call(c, s, d); err != nil {
				return fmt.Errorf("failed to %s domain '%s': %w", verb, d.Name, err)
			}
			return done(c, said, d.Name)
		}),
	}
}

func lifecycleCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "start", Category: "Running", Usage: "start a domain", ArgsUsage: "DOMAIN",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "console", Usage: "connect to its console from the first byte"},
				&cli.BoolFlag{Name: "paused", Usage: "leave it paused"},
				&cli.BoolFlag{Name: "autodestroy", Usage: "destroy it when this connection ends"},
				&cli.BoolFlag{Name: "force-boot", Usage: "discard its saved state, if there is one"},
			},
			Action: withDomain(start), BashComplete: complete(inactiveDomain)},
		lifecycleCommand("shutdown", "ask the guest to shut down (power button)", "shut down", "Domain '%s' is being shutdown", activeDomain, nil,
			func(_ *cli.Context, s *session, d libvirt.Domain) error { return s.DomainShutdownFlags(d, 0) }),
		lifecycleCommand("reboot", "ask the guest to reboot", "reboot", "Domain '%s' is being rebooted", activeDomain, nil,
			func(_ *cli.Context, s *session, d libvirt.Domain) error { return s.DomainReboot(d, 0) }),
		lifecycleCommand("reset", "reset the machine, as its reset button does", "reset", "Domain '%s' was reset", activeDomain, nil,
			func(_ *cli.Context, s *session, d libvirt.Domain) error { return s.DomainReset(d, 0) }),
		lifecycleCommand("destroy", "stop a domain at once, as pulling the plug does", "destroy", "Domain '%s' destroyed", activeDomain,
			[]cli.Flag{&cli.BoolFlag{Name: "graceful", Usage: "fail rather than kill the engine"}},
			func(c *cli.Context, s *session, d libvirt.Domain) error {
				var flags libvirt.DomainDestroyFlagsValues
				if c.Bool("graceful") {
					flags |= libvirt.DomainDestroyGraceful
				}
				return s.DomainDestroyFlags(d, flags)
			}),
		lifecycleCommand("suspend", "pause a domain", "suspend", "Domain '%s' suspended", activeDomain, nil,
			func(_ *cli.Context, s *session, d libvirt.Domain) error { return s.DomainSuspend(d) }),
		lifecycleCommand("resume", "let a paused domain go on", "resume", "Domain '%s' resumed", activeDomain, nil,
			func(_ *cli.Context, s *session, d libvirt.Domain) error { return s.DomainResume(d) }),
	}
}

func start(c *cli.Context, s *session, d libvirt.Domain) error {
	var flags libvirt.DomainCreateFlags
	if c.Bool("paused") || c.Bool("console") {
		flags |= libvirt.DomainStartPaused // the console is open before the first byte
	}
	if c.Bool("autodestroy") {
		flags |= libvirt.DomainStartAutodestroy
	}
	if c.Bool("force-boot") {
		flags |= libvirt.DomainStartForceBoot
	}
	started, err := s.DomainCreateWithFlags(d, uint32(flags))
	if err != nil { // and no domain to take the name from
		return fmt.Errorf("failed to start domain '%s': %w", d.Name, err)
	}
	d = started
	if !c.Bool("console") {
		return done(c, "Domain '%s' started", d.Name)
	}
	fmt.Fprintf(c.App.Writer, "Domain '%s' started\n", d.Name)
	return runConsole(c, s, d, consoleOptions{resume: !c.Bool("paused")})
}
