package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"virtd/rpc"
)

func bridgeCommands() []*cli.Command {
	port := []cli.Flag{
		&cli.UintFlag{Name: "wait", Value: 30, Usage: "take the change back after so many `SECONDS` without a confirmation"},
		&cli.BoolFlag{Name: "yes", Usage: "confirm the change at once"},
	}
	return []*cli.Command{
		{
			Name: "bridge", Category: "Host", Usage: "list, make and change bridges of the host",
			Description: "What is made here is gone after a boot: make what shall last with the host's own tools.\n" +
				"When a link that has addresses becomes a port of a bridge, they move to the bridge. The change is taken back when the host's\n" +
				"gateway does not answer any more, or when nobody confirms it.",
			Subcommands: []*cli.Command{
				{Name: "list", Usage: "list bridges with their ports and addresses", Action: bridgeList},
				{Name: "create", Usage: "make a bridge", ArgsUsage: "NAME", Action: bridgeCreate, Flags: []cli.Flag{
					&cli.BoolFlag{Name: "stp", Usage: "speak the spanning tree protocol"},
					&cli.BoolFlag{Name: "vlan-filtering", Usage: "make ports members of VLANs"},
					&cli.UintFlag{Name: "mtu", Usage: "largest packet in `BYTES`"},
				}},
				{Name: "delete", Usage: "remove a bridge without ports and addresses", ArgsUsage: "NAME", Action: bridgeDelete},
				{Name: "add-port", Usage: "make a link of the host a port of a bridge", ArgsUsage: "BRIDGE LINK",
					Description: "For example:\n\n" +
						"    vctl bridge add-port br0 enp2s0 --wait 60", Flags: port, Action: bridgePort(0)},
				{Name: "remove-port", Usage: "take a link off its bridge", ArgsUsage: "BRIDGE LINK", Flags: port, Action: bridgePort(rpc.PrivRemovePort)},
			},
		},
		{
			Name: "tap", Category: "Host", Usage: "list the host's ends of guests' interfaces",
			Subcommands: []*cli.Command{{Name: "list", Usage: "list taps with their bridges and domains", Action: tapList}},
		},
	}
}

// listedBridge is one bridge for programs.
type listedBridge struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac"`
	MTU       uint32   `json:"mtu"`
	Up        bool     `json:"up"`
	STP       bool     `json:"stp"`
	VLANs     bool     `json:"vlanFiltering"`
	Network   string   `json:"network,omitempty"`
	Addresses []string `json:"addresses"`
	Ports     []string `json:"ports"`
}

func bridgeList(c *cli.Context) error {
	var ret rpc.PrivBridgeListRet
	if err := callPrivate(c, true, rpc.PrivProcBridgeList, &rpc.PrivBridgeListArgs{}, &ret); err != nil {
		return fmt.Errorf("failed to list bridges: %w", err)
	}
	list := make([]listedBridge, 0, len(ret.Bridges))
	for _, b := range ret.Bridges {
		list = append(list, listedBridge{b.Name, b.MAC, b.MTU, b.Flags&rpc.PrivBridgeUp != 0, b.Flags&rpc.PrivBridgeSTP != 0,
			b.Flags&rpc.PrivBridgeVLANs != 0, b.Network, append([]string{}, b.Addresses...), append([]string{}, b.Ports...)})
	}
	return emit(c, list, func(w io.Writer) error {
		rows := make([][]string, 0, len(list))
		for _, b := range list {
			rows = append(rows, []string{b.Name, upDown(b.Up), strconv.Itoa(int(b.MTU)), yesNo(b.STP), yesNo(b.VLANs), dash(b.Network),
				dash(strings.Join(b.Addresses, ",")), dash(strings.Join(b.Ports, ","))})
		}
		return table(w, []string{"Name", "State", "MTU", "STP", "VLANs", "Network", "Addresses", "Ports"}, rows)
	})
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func bridgeCreate(c *cli.Context) error {
	args := rpc.PrivBridgeCreateArgs{Name: c.Args().First(), MTU: uint32(c.Uint("mtu"))}
	if c.Bool("stp") {
		args.Flags |= rpc.PrivBridgeSTP
	}
	if c.Bool("vlan-filtering") {
		args.Flags |= rpc.PrivBridgeVLANs
	}
	if err := callPrivate(c, false, rpc.PrivProcBridgeCreate, &args, &struct{}{}); err != nil {
		return fmt.Errorf("failed to create bridge '%s': %w", args.Name, err)
	}
	return done(c, "Bridge '%s' created", args.Name)
}

func bridgeDelete(c *cli.Context) error {
	name := c.Args().First()
	if err := callPrivate(c, false, rpc.PrivProcBridgeDelete, &rpc.PrivBridgeDeleteArgs{Name: name}, &struct{}{}); err != nil {
		return fmt.Errorf("failed to delete bridge '%s': %w", name, err)
	}
	return done(c, "Bridge '%s' deleted", name)
}

// bridgePort puts a link on a bridge, or takes it away.
func bridgePort(flags uint32) cli.ActionFunc {
	return func(c *cli.Context) error {
		args := rpc.PrivBridgePortArgs{Bridge: c.Args().First(), Port: c.Args().Get(1), Wait: uint32(c.Uint("wait")), Flags: flags}
		var ret rpc.PrivBridgePortRet
		if err := callPrivate(c, false, rpc.PrivProcBridgePort, &args, &ret); err != nil {
			return fmt.Errorf("failed to change bridge '%s': %w", args.Bridge, err)
		}
		if ret.Waits != 0 {
			if !c.Bool("yes") {
				fmt.Fprintf(c.App.ErrWriter, "The addresses of the host moved. Press Enter within %d seconds to keep the change; else it is taken back.\n", args.Wait)
				if !enterWithin(c.App.Reader, time.Duration(args.Wait)*time.Second) {
					return fmt.Errorf("the change of '%s' is not confirmed and is taken back", args.Port)
				}
			}
			if err := callPrivate(c, false, rpc.PrivProcBridgeConfirm, &rpc.PrivBridgeConfirmArgs{Port: args.Port}, &struct{}{}); err != nil {
				return fmt.Errorf("failed to confirm the change of '%s': %w", args.Port, err)
			}
		}
		what := "is a port of"
		if flags != 0 {
			what = "is no port any more of"
		}
		return done(c, "'%s' %s bridge '%s'", args.Port, what, args.Bridge)
	}
}

// enterWithin waits for a line. The goroutine ends with the program where none comes.
func enterWithin(r io.Reader, d time.Duration) bool {
	line := make(chan bool, 1)
	go func() {
		_, err := bufio.NewReader(r).ReadString('\n')
		line <- err == nil
	}()
	select {
	case ok := <-line:
		return ok
	case <-time.After(d):
		return false
	}
}

// listedTap is one tap for programs.
type listedTap struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Bridge string `json:"bridge,omitempty"`
	MAC    string `json:"mac"`
	Guest  string `json:"guestMAC,omitempty"`
	Domain string `json:"domain,omitempty"`
	MTU    uint32 `json:"mtu"`
	Up     bool   `json:"up"`
}

func tapList(c *cli.Context) error {
	var ret rpc.PrivTapListRet
	if err := callPrivate(c, true, rpc.PrivProcTapList, &rpc.PrivTapListArgs{}, &ret); err != nil {
		return fmt.Errorf("failed to list taps: %w", err)
	}
	list := make([]listedTap, 0, len(ret.Taps))
	for _, t := range ret.Taps {
		list = append(list, listedTap{t.Name, t.Kind, t.Bridge, t.MAC, t.Guest, t.Domain, t.MTU, t.Up != 0})
	}
	return emit(c, list, func(w io.Writer) error {
		rows := make([][]string, 0, len(list))
		for _, t := range list {
			rows = append(rows, []string{t.Name, t.Kind, upDown(t.Up), strconv.Itoa(int(t.MTU)), dash(t.Bridge), dash(t.Guest), dash(t.Domain)})
		}
		return table(w, []string{"Name", "Kind", "State", "MTU", "Bridge", "Guest", "Domain"}, rows)
	})
}
