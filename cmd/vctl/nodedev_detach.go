package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"virtd/rpc"
)

func nodedevDetachCommand() *cli.Command {
	return &cli.Command{
		Name: "detach", Usage: "take a device from its driver, for a guest to have it", ArgsUsage: "DEVICE",
		Description: "Gives the device to vfio-pci and remembers the driver that it had, also over reboots. What the host needs is refused: the\n" +
			"disk with the root file system, the interface with the default route, a member of a bridge or bond. So is one function\n" +
			"of an IOMMU group that could not be given to a guest without the others.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "driver", Usage: "give it to `DRIVER` instead of vfio-pci: a variant for the card"},
			&cli.BoolFlag{Name: "group", Usage: "every device of its IOMMU group"},
			&cli.BoolFlag{Name: "force", Usage: "although the host uses the device"},
		},
		Action: withDevice(nodedevDetach), BashComplete: complete(anyHostDevice),
	}
}

func nodedevDetach(c *cli.Context, s *session, name string) error {
	args := rpc.PrivDeviceDetachArgs{Name: name, Driver: c.String("driver")}
	if c.Bool("group") {
		args.Flags |= rpc.PrivDetachGroup
	}
	if c.Bool("force") {
		args.Flags |= rpc.PrivDetachForce
	}
	err := errNotVirtd
	if s.target.socket != "" {
		err = callPrivate(c, false, rpc.PrivProcDeviceDetach, &args, &struct{}{})
	}
	if errors.Is(err, errNotVirtd) && args.Flags == 0 { // as any libvirt daemon can
		var driver []string
		if c.IsSet("driver") {
			driver = []string{c.String("driver")}
		}
		err = s.NodeDeviceDetachFlags(name, driver, 0)
	}
	if err != nil {
		return fmt.Errorf("failed to detach device %s: %w", name, err)
	}
	return done(c, "Device %s detached", name)
}

func nodedevReattach(c *cli.Context, s *session, name string) error {
	if err := s.NodeDeviceReAttach(name); err != nil {
		return fmt.Errorf("failed to re-attach device %s: %w", name, err)
	}
	return done(c, "Device %s re-attached", name)
}

func nodedevReset(c *cli.Context, s *session, name string) error {
	if err := s.NodeDeviceReset(name); err != nil {
		return fmt.Errorf("failed to reset device %s: %w", name, err)
	}
	return done(c, "Device %s reset", name)
}
