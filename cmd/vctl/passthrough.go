package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"virtd/rpc"
)

func passthroughCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "passthrough", Category: "Host", Usage: "take a PCI device from the host and put it into a domain", ArgsUsage: "DEVICE DOMAIN",
		Description: "DEVICE is a PCI address (0000:01:00.0) or a node device (pci_0000_01_00_0). Says why when it cannot be given to a guest. A running domain\n" +
			"has it at once, any from its next start on; virtd takes it at each start and gives it back at each end.\n\n" +
			"    vctl passthrough 0000:01:00.0 demo",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "group", Usage: "take every device of its IOMMU group from the host"},
			&cli.BoolFlag{Name: "config", Usage: "from the next start on only"},
			&cli.BoolFlag{Name: "iommufd", Usage: "through iommufd, not VFIO's container and group"},
		},
		Action: withSession(passthrough), BashComplete: complete(pciDevice, anyDomain),
	}}
}

// passthrough tries the device with vfio-pci first, so that what is wrong shows now and not at the domain's start.
func passthrough(c *cli.Context, s *session) error {
	name := nodeDeviceName(c.Args().First())
	at := strings.Split(strings.TrimPrefix(name, "pci_"), "_")
	if !strings.HasPrefix(name, "pci_") || len(at) != 4 {
		return fmt.Errorf("'%s' is not a PCI address like 0000:01:00.0", c.Args().First())
	}
	dom, err := s.domain(c.Args().Get(1))
	if err != nil {
		return err
	}
	if _, err := s.NodeDeviceLookupByName(name); err != nil {
		return fmt.Errorf("could not find matching device '%s': %w", name, err)
	}
	args := rpc.PrivDeviceDetachArgs{Name: name}
	if c.Bool("group") {
		args.Flags = rpc.PrivDetachGroup
	}
	if err := callPrivate(c, false, rpc.PrivProcDeviceDetach, &args, &struct{}{}); err != nil {
		return fmt.Errorf("device %s cannot be given to a guest: %w", name, err)
	}
	driver := ""
	if c.IsSet("iommufd") {
		driver = "<driver iommufd='" + map[bool]string{true: "yes", false: "no"}[c.Bool("iommufd")] + "'/>"
	}
	xml := fmt.Sprintf("<hostdev mode='subsystem' type='pci' managed='yes'>%s<source><address domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/></source></hostdev>",
		driver, at[0], at[1], at[2], at[3])
	if !c.Bool("group") { // the domain takes it when it needs it, and gives it back
		if err := s.NodeDeviceReAttach(name); err != nil {
			fmt.Fprintf(c.App.ErrWriter, "device %s stays detached: %v\n", name, err)
		}
	}
	flags, when := uint32(affectConfig), "from its next start on"
	if dom.ID >= 0 && !c.Bool("config") {
		flags, when = affectLive|affectConfig, "now and from its next start on"
	}
	if err := s.DomainAttachDeviceFlags(dom, xml, flags); err != nil {
		return fmt.Errorf("failed to attach device %s to domain '%s': %w", name, dom.Name, err)
	}
	return done(c, "Device %s can be given to a guest\nDevice %s attached to domain '%s' %s", name, name, dom.Name, when)
}

// nodeDeviceName turns a PCI address into the name of its node device.
func nodeDeviceName(text string) string {
	if strings.Count(text, ":") == 1 {
		text = "0000:" + text
	}
	if strings.Count(text, ":") != 2 {
		return text
	}
	return "pci_" + strings.NewReplacer(":", "_", ".", "_").Replace(text)
}
