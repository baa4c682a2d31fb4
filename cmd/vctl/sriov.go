package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"virtd/rpc"
)

func sriovCommands() []*cli.Command {
	making := []cli.Flag{
		&cli.BoolFlag{Name: "persist", Usage: "make them again after each boot of the host"},
		&cli.BoolFlag{Name: "no-driver", Usage: "for guests only: no driver of the host gets them"},
	}
	return []*cli.Command{{
		Name: "sriov", Category: "Host", Usage: "make and configure virtual functions of network cards and other SR-IOV devices",
		Description: "CARD and VF are a PCI address (0000:01:00.0), an interface, or a node device (pci_0000_01_00_0).",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list cards with SR-IOV and their virtual functions", Action: sriovList},
			{Name: "create", Usage: "make COUNT virtual functions, in place of those that exist", ArgsUsage: "CARD COUNT",
				Description: "For example:\n\n" +
					"    vctl sriov create enp1s0 4 --persist", Flags: making, Action: sriovCreate, BashComplete: complete(pciDevice)},
			{Name: "remove", Usage: "remove all virtual functions, for good", ArgsUsage: "CARD", Action: sriovRemove, BashComplete: complete(pciDevice)},
			{Name: "set", Usage: "set what the card does for a virtual function", ArgsUsage: "VF",
				Description: "For example:\n\n" +
					"    vctl sriov set 0000:01:10.2 --mac 52:54:00:77:00:02 --vlan 42", Action: sriovSet, BashComplete: complete(pciDevice),
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "mac", Usage: "the `ADDRESS` that it has"},
					&cli.StringFlag{Name: "vlan", Usage: "put it into VLAN `ID`; 0 for none"},
					&cli.StringFlag{Name: "qos", Usage: "`PRIORITY` in the VLAN, 0 to 7"},
					&cli.StringFlag{Name: "trust", Usage: "`on` lets it change its address and listen to all"},
					&cli.StringFlag{Name: "spoofchk", Usage: "`on` drops what it sends under other addresses"},
					&cli.StringFlag{Name: "link-state", Usage: "`STATE`: auto, enable or disable"},
					&cli.StringFlag{Name: "max-rate", Usage: "`MBIT` a second that it may send; 0 for unlimited"},
				}},
		},
	}}
}

// listedCard is one card for programs.
type listedCard struct {
	Address   string           `json:"address"`
	Interface string           `json:"interface,omitempty"`
	Driver    string           `json:"driver,omitempty"`
	Total     uint32           `json:"total"`
	Persist   bool             `json:"persist"`
	Functions []listedFunction `json:"functions"`
}

type listedFunction struct {
	Address   string            `json:"address"`
	Number    uint32            `json:"number"`
	Interface string            `json:"interface,omitempty"`
	Driver    string            `json:"driver,omitempty"`
	Domain    string            `json:"domain,omitempty"`
	Settings  map[string]string `json:"settings,omitempty"`
}

func sriovList(c *cli.Context) error {
	var ret rpc.PrivFunctionListRet
	if err := callPrivate(c, true, rpc.PrivProcFunctionList, &rpc.PrivFunctionListArgs{}, &ret); err != nil {
		return fmt.Errorf("failed to list virtual functions: %w", err)
	}
	cards := make([]listedCard, 0, len(ret.Cards))
	for _, p := range ret.Cards {
		card := listedCard{p.Address, p.Interface, p.Driver, p.Total, p.Kept != 0, make([]listedFunction, 0, len(p.Functions))}
		for _, f := range p.Functions {
			l := listedFunction{f.Address, f.Number, f.Interface, f.Driver, f.Domain, map[string]string{}}
			for _, s := range f.Settings {
				l.Settings[s.Name] = s.Value
			}
			card.Functions = append(card.Functions, l)
		}
		cards = append(cards, card)
	}
	return emit(c, cards, func(w io.Writer) error {
		var b strings.Builder
		for i, p := range cards {
			kept := ""
			if p.Persist {
				kept = ", again after a boot"
			}
			fmt.Fprintf(&b, "%s %s (driver %s): %d of %d virtual functions%s\n", p.Address, p.Interface, p.Driver, len(p.Functions), p.Total, kept)
			for j, f := range p.Functions {
				fmt.Fprintf(&b, "  %d %s %s driver %s", f.Number, f.Address, f.Interface, f.Driver)
				for _, s := range ret.Cards[i].Functions[j].Settings {
					fmt.Fprintf(&b, " %s %s", s.Name, s.Value)
				}
				if f.Domain != "" {
					fmt.Fprintf(&b, " domain %s", f.Domain)
				}
				fmt.Fprintln(&b)
			}
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

func sriovCreate(c *cli.Context) error {
	n, err := strconv.ParseUint(c.Args().Get(1), 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("'%s' is not a number of virtual functions", c.Args().Get(1))
	}
	args := rpc.PrivFunctionCountArgs{Card: c.Args().First(), Count: uint32(n)}
	if c.Bool("persist") {
		args.Flags |= rpc.PrivKeepFunctions
	}
	if c.Bool("no-driver") {
		args.Flags |= rpc.PrivDriverlessFunctions
	}
	if err := callPrivate(c, false, rpc.PrivProcFunctionCount, &args, &struct{}{}); err != nil {
		return fmt.Errorf("failed to create virtual functions: %w", err)
	}
	return done(c, "%d virtual functions of %s created", n, args.Card)
}

func sriovRemove(c *cli.Context) error {
	if err := callPrivate(c, false, rpc.PrivProcFunctionCount, &rpc.PrivFunctionCountArgs{Card: c.Args().First()}, &struct{}{}); err != nil {
		return fmt.Errorf("failed to remove virtual functions: %w", err)
	}
	return done(c, "Virtual functions of %s removed", c.Args().First())
}

func sriovSet(c *cli.Context) error {
	args := rpc.PrivFunctionSetArgs{Function: c.Args().First()}
	for _, f := range c.Command.Flags {
		if name := f.Names()[0]; c.IsSet(name) && name != "help" {
			args.Settings = append(args.Settings, rpc.PrivSetting{Name: name, Value: c.String(name)})
		}
	}
	if len(args.Settings) == 0 {
		return fmt.Errorf("nothing to set; see vctl sriov set --help")
	}
	if err := callPrivate(c, false, rpc.PrivProcFunctionSet, &args, &struct{}{}); err != nil {
		return fmt.Errorf("failed to configure virtual function %s: %w", args.Function, err)
	}
	return done(c, "Virtual function %s configured", args.Function)
}
