package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func nodedevCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "nodedev", Category: "Host", Usage: "look at the host's devices, take them from the host and give them back, make mediated ones",
		Subcommands: append([]*cli.Command{
			{Name: "list", Usage: "list the host's devices",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "cap", Usage: "only devices with one of the capabilities `CAP`,...: system, pci, usb_device, usb, net, " +
						"scsi_host, scsi_target, scsi, storage, fc_host, vports, scsi_generic, drm, mdev_types, mdev or vpd"},
					&cli.BoolFlag{Name: "inactive", Usage: "defined devices that are not started"},
					&cli.BoolFlag{Name: "all", Usage: "devices that exist, and defined ones that are not started"},
					&cli.BoolFlag{Name: "persistent", Usage: "only defined devices"},
					&cli.BoolFlag{Name: "transient", Usage: "only devices that are not defined"},
					&cli.BoolFlag{Name: "tree", Usage: "show what hangs on what"},
				},
				Action: withSession(nodedevList)},
			{Name: "dumpxml", Usage: "print a device's XML", ArgsUsage: "DEVICE",
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "inactive", Usage: "as the device is defined"}},
				Action: withDevice(nodedevDumpXML), BashComplete: complete(anyHostDevice)},
			{Name: "info", Usage: "describe a device", ArgsUsage: "DEVICE", Action: withDevice(nodedevInfo), BashComplete: complete(anyHostDevice)},
			nodedevDetachCommand(),
			{Name: "reattach", Usage: "give a device back to its driver", ArgsUsage: "DEVICE", Action: withDevice(nodedevReattach), BashComplete: complete(anyHostDevice)},
			{Name: "reset", Usage: "reset a device that no driver of the host has", ArgsUsage: "DEVICE", Action: withDevice(nodedevReset), BashComplete: complete(anyHostDevice)},
			nodedevEventCommand(),
		}, nodedevDefineCommands()...),
	}}
}

// withDevice runs a command's body with the device that its first argument names.
func withDevice(body func(*cli.Context, *session, string) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		return withSession(func(c *cli.Context, s *session) error {
			d, err := s.NodeDeviceLookupByName(c.Args().First())
			if err != nil {
				return fmt.Errorf("could not find matching device '%s': %w", c.Args().First(), err)
			}
			return body(c, s, d.Name)
		})(c)
	}
}

// capabilityFlags are libvirt's flags for what list can choose by.
var capabilityFlags = map[string]libvirt.ConnectListAllNodeDeviceFlags{
	"system": libvirt.ConnectListNodeDevicesCapSystem, "pci": libvirt.ConnectListNodeDevicesCapPciDev,
	"usb_device": libvirt.ConnectListNodeDevicesCapUsbDev, "usb": libvirt.ConnectListNodeDevicesCapUsbInterface,
	"net": libvirt.ConnectListNodeDevicesCapNet, "scsi_host": libvirt.ConnectListNodeDevicesCapScsiHost,
	"scsi_target": libvirt.ConnectListNodeDevicesCapScsiTarget, "scsi": libvirt.ConnectListNodeDevicesCapScsi,
	"storage": libvirt.ConnectListNodeDevicesCapStorage, "fc_host": libvirt.ConnectListNodeDevicesCapFcHost,
	"vports": libvirt.ConnectListNodeDevicesCapVports, "scsi_generic": libvirt.ConnectListNodeDevicesCapScsiGeneric,
	"drm": libvirt.ConnectListNodeDevicesCapDrm, "mdev_types": libvirt.ConnectListNodeDevicesCapMdevTypes, "mdev": libvirt.ConnectListNodeDevicesCapMdev,
	"vpd": libvirt.ConnectListNodeDevicesCapVpd,
}

// listedDevice is one entry of nodedev list for programs.
type listedDevice struct {
	Name         string   `json:"name"`
	Parent       string   `json:"parent,omitempty"` // none for the computer
	Capabilities []string `json:"capabilities"`
}

func nodedevList(c *cli.Context, s *session) error {
	var flags libvirt.ConnectListAllNodeDeviceFlags
	for name, bit := range map[string]libvirt.ConnectListAllNodeDeviceFlags{"inactive": libvirt.ConnectListNodeDevicesInactive,
		"persistent": libvirt.ConnectListNodeDevicesPersistent, "transient": libvirt.ConnectListNodeDevicesTransient} {
		if c.Bool(name) {
			flags |= bit
		}
	}
	if !c.Bool("inactive") && !c.Bool("all") {
		flags |= libvirt.ConnectListNodeDevicesActive
	}
	for _, name := range c.StringSlice("cap") {
		bit, ok := capabilityFlags[strings.TrimSpace(name)]
		if !ok {
			return fmt.Errorf("invalid capability type '%s'; see vctl nodedev list --help", name)
		}
		flags |= bit
	}
	if c.Bool("tree") && c.IsSet("cap") {
		return fmt.Errorf("option --tree is incompatible with --cap: devices would hang on nothing")
	}
	devices, _, err := s.ConnectListAllNodeDevices(1, uint32(flags))
	if err != nil {
		return fmt.Errorf("failed to list node devices: %w", err)
	}
	full := c.Bool("tree") || c.String("output") == "json" // parents and capabilities cost calls for each device
	out := make([]listedDevice, 0, len(devices))
	for _, d := range devices {
		l := listedDevice{Name: d.Name}
		if full {
			if l, err = s.describeDevice(d.Name); err != nil {
				continue // it went away since the list was made
			}
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b listedDevice) int { return strings.Compare(a.Name, b.Name) })
	return emit(c, out, func(w io.Writer) error {
		var b strings.Builder
		if c.Bool("tree") {
			children := map[string][]string{}
			for _, d := range out {
				children[d.Parent] = append(children[d.Parent], d.Name)
			}
			printTree(&b, children, "", "")
		} else {
			for _, d := range out {
				fmt.Fprintln(&b, d.Name)
			}
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func (s *session) describeDevice(name string) (listedDevice, error) {
	parent, err := s.NodeDeviceGetParent(name)
	if err != nil {
		return listedDevice{}, err
	}
	n, err := s.NodeDeviceNumOfCaps(name)
	if err != nil {
		return listedDevice{}, err
	}
	caps, err := s.NodeDeviceListCaps(name, n)
	l := listedDevice{Name: name, Capabilities: caps}
	if len(parent) > 0 {
		l.Parent = parent[0]
	}
	return l, err
}

// printTree prints what hangs on a device, two columns further right for each level. A device is printed once, so the walk
// ends whatever a daemon says of parents.
func printTree(b *strings.Builder, children map[string][]string, parent, indent string) {
	list := children[parent]
	delete(children, parent)
	for _, name := range list {
		fmt.Fprintf(b, "%s%s\n", indent, name)
		printTree(b, children, name, indent+"  ")
	}
}

func nodedevDumpXML(c *cli.Context, s *session, name string) error {
	flags := uint32(0)
	if c.Bool("inactive") {
		flags = 1 // VIR_NODE_DEVICE_XML_INACTIVE
	}
	xml, err := s.NodeDeviceGetXMLDesc(name, flags)
	if err != nil {
		return fmt.Errorf("failed to describe device '%s': %w", name, err)
	}
	return emit(c, map[string]string{"name": name, "xml": xml}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, xml)
		return err
	})
}

// deviceInfo is what nodedev info tells.
type deviceInfo struct {
	listedDevice
	Active     bool `json:"active"`
	Persistent bool `json:"persistent"`
	Autostart  bool `json:"autostart"`
}

func nodedevInfo(c *cli.Context, s *session, name string) error {
	l, err := s.describeDevice(name)
	if err != nil {
		return fmt.Errorf("failed to describe device '%s': %w", name, err)
	}
	info := deviceInfo{listedDevice: l}
	for _, f := range []struct {
		to  *bool
		ask func(string) (int32, error)
	}{{&info.Active, s.NodeDeviceIsActive}, {&info.Persistent, s.NodeDeviceIsPersistent}, {&info.Autostart, s.NodeDeviceGetAutostart}} {
		v, err := f.ask(name)
		if err != nil {
			return fmt.Errorf("failed to describe device '%s': %w", name, err)
		}
		*f.to = v != 0
	}
	yes := map[bool]string{true: "yes", false: "no"}
	return emit(c, info, func(w io.Writer) error {
		return describe(w, []field{{"Name", info.Name}, {"Parent", info.Parent}, {"Capabilities", strings.Join(info.Capabilities, ", ")},
			{"Active", yes[info.Active]}, {"Persistent", yes[info.Persistent]}, {"Autostart", yes[info.Autostart]}})
	})
}
