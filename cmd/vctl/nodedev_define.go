package main

import (
	"fmt"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// nodedevDefineCommands make and define mediated devices, as virsh's commands of the same names do.
func nodedevDefineCommands() []*cli.Command {
	document := func(name, usage string, do func(*session, string) (libvirt.NodeDevice, error), says string) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: "FILE", Action: func(c *cli.Context) error {
			text, err := readDocument(c, c.Args().First())
			if err != nil {
				return err
			}
			return withSession(func(c *cli.Context, s *session) error {
				dev, err := do(s, text)
				if err != nil {
					return fmt.Errorf("failed to %s node device from '%s': %w", name, c.Args().First(), err)
				}
				return done(c, says, dev.Name, c.Args().First())
			})(c)
		}}
	}
	device := func(name, usage, says string, do func(*cli.Context, *session, string) error) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: "DEVICE", BashComplete: complete(anyHostDevice),
			Action: withDevice(func(c *cli.Context, s *session, dev string) error {
				if err := do(c, s, dev); err != nil {
					return fmt.Errorf("failed to %s node device '%s': %w", name, dev, err)
				}
				return done(c, says, dev)
			})}
	}
	autostart := device("autostart", "start a defined mediated device when the host boots", "Autostart of node device '%s' changed",
		func(c *cli.Context, s *session, dev string) error {
			on := int32(1)
			if c.Bool("disable") {
				on = 0
			}
			return s.NodeDeviceSetAutostart(dev, on)
		})
	autostart.Flags = []cli.Flag{&cli.BoolFlag{Name: "disable", Usage: "do not start it"}}
	return []*cli.Command{
		document("create", "make a mediated device that lasts until it is destroyed or the host boots", func(s *session, text string) (libvirt.NodeDevice, error) {
			return s.NodeDeviceCreateXML(text, 0)
		}, "Node device '%s' created from '%s'"),
		document("define", "define a mediated device, to be started later", func(s *session, text string) (libvirt.NodeDevice, error) {
			return s.NodeDeviceDefineXML(text, 0)
		}, "Node device '%s' defined from '%s'"),
		device("start", "start a defined mediated device", "Node device '%s' started", func(_ *cli.Context, s *session, dev string) error {
			return s.NodeDeviceCreate(dev, 0)
		}),
		device("destroy", "stop a mediated device; its definition stays", "Node device '%s' destroyed", func(_ *cli.Context, s *session, dev string) error {
			return s.NodeDeviceDestroy(dev)
		}),
		device("undefine", "forget the definition of a mediated device", "Node device '%s' undefined", func(_ *cli.Context, s *session, dev string) error {
			return s.NodeDeviceUndefine(dev, 0)
		}),
		autostart,
	}
}
