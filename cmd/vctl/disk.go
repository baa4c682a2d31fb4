package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func diskCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "disk", Category: "Devices", Usage: "attach disks to domains, detach them and limit their I/O", Description: affectHelp,
		Subcommands: []*cli.Command{
			{Name: "attach", Usage: "attach an image or block device", ArgsUsage: "DOMAIN PATH TARGET",
				Description: "PATH is absolute, of the daemon's host. TARGET is the disk's name: vda, vdb and so on.",
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "format", Usage: "raw or qcow2", Value: "raw"},
					&cli.BoolFlag{Name: "block", Usage: "PATH is a block device; known without the flag on this host"},
					&cli.BoolFlag{Name: "readonly", Usage: "the guest cannot write to it"},
				}, affectOptions()...), Action: withDomain(diskAttach), BashComplete: complete(anyDomain)},
			{Name: "detach", Usage: "detach a disk; its image stays", ArgsUsage: "DOMAIN TARGET", Flags: affectOptions(),
				Description: "TARGET is the disk's name, or its path. A running guest is asked to let go of the disk: it is in use until it did.",
				Action:      withDomain(diskDetach), BashComplete: complete(anyDomain, diskTargets)},
			throttleCommand(),
		},
	}}
}

func diskAttach(c *cli.Context, s *session, d libvirt.Domain) error {
	path, name, format := c.Args().Get(1), c.Args().Get(2), c.String("format")
	if format != "raw" && format != "qcow2" {
		return fmt.Errorf("disk format '%s': use raw or qcow2", format)
	}
	kind, attr := "file", "file"
	if c.Bool("block") || s.isBlockDevice(path) {
		kind, attr = "block", "dev"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "<disk type='%s' device='disk'><driver name='qemu' type='%s'/><source %s='%s'/><target dev='%s'/>",
		kind, format, attr, escape(path), escape(name))
	if c.Bool("readonly") {
		text.WriteString("<readonly/>")
	}
	text.WriteString("</disk>")
	if err := s.DomainAttachDeviceFlags(d, text.String(), affected(c)); err != nil {
		return fmt.Errorf("failed to attach disk: %w", err)
	}
	return done(c, "Disk attached successfully")
}

// isBlockDevice looks at a path of this host. On others only the user knows.
func (s *session) isBlockDevice(path string) bool {
	if s.target.socket == "" {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
}

func diskDetach(c *cli.Context, s *session, d libvirt.Domain) error {
	what := c.Args().Get(1)
	v, err := s.findDevice(c, d, func(v domainDevice) bool { return v.Kind == "disk" && (v.Target == what || v.Source == what) })
	if err == nil && v == nil {
		err = fmt.Errorf("no disk found whose source path or target is %s", what)
	}
	if err == nil {
		err = s.DomainDetachDeviceFlags(d, v.text, affected(c))
	}
	if err != nil {
		return fmt.Errorf("failed to detach disk: %w", err)
	}
	return done(c, "Disk detached successfully")
}

// findDevice finds the device of a command that detaches, in the definition if only that is to change. It is nil when
// there is none, and the first one when there are more, as with virsh.
func (s *session) findDevice(c *cli.Context, d libvirt.Domain, is func(domainDevice) bool) (*domainDevice, error) {
	list, err := s.devices(d, affected(c) == affectConfig)
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		if is(v) {
			return &v, nil
		}
	}
	return nil, nil
}
