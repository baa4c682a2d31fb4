package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"github.com/urfave/cli/v2"
)

func poolCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "pool", Category: "Storage", Usage: "manage storage pools",
		Description: "POOL is a name or a UUID.",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list pools: active ones, or as the flags say",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "active and inactive"},
					&cli.BoolFlag{Name: "inactive", Usage: "inactive only"},
				}, Action: withSession(poolList)},
			{Name: "info", Usage: "describe a pool", ArgsUsage: "POOL", Action: withPool(poolInfo), BashComplete: complete(poolNames)},
			{Name: "dumpxml", Usage: "print a pool's XML", ArgsUsage: "POOL",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "inactive", Usage: "the definition that the next start uses"}}, Action: withPool(poolDumpXML), BashComplete: complete(poolNames)},
			{Name: "define", Usage: "define a pool from XML, or change its definition", ArgsUsage: "FILE",
				Description: "FILE - is standard input.", Action: poolDefine},
			poolCreateCommand(),
			poolCommand("build", "make what a stopped pool is on: a directory, a filesystem, a volume group", "build", "Pool '%s' built", overwriteFlags, poolBuild),
			poolCommand("start", "start a pool", "start", "Pool '%s' started",
				append([]cli.Flag{&cli.BoolFlag{Name: "build", Usage: "make what it is on first"}}, overwriteFlags...), poolStart),
			poolCommand("destroy", "stop a pool; its volumes stay", "destroy", "Pool '%s' destroyed", nil,
				func(_ *cli.Context, s *session, p libvirt.StoragePool) error { return s.StoragePoolDestroy(p) }),
			poolCommand("undefine", "remove a pool's definition; its volumes stay", "undefine", "Pool '%s' has been undefined", nil,
				func(_ *cli.Context, s *session, p libvirt.StoragePool) error { return s.StoragePoolUndefine(p) }),
			poolCommand("delete", "remove what a stopped pool without volumes is on: its directory or volume group", "delete", "Pool '%s' deleted", nil,
				func(_ *cli.Context, s *session, p libvirt.StoragePool) error { return s.StoragePoolDelete(p, 0) }),
			{Name: "sources", Usage: "list the volume groups that pools of type logical could be made of", Action: withSession(poolSources)},
			poolCommand("refresh", "look at a pool again", "refresh", "Pool '%s' refreshed", nil,
				func(_ *cli.Context, s *session, p libvirt.StoragePool) error { return s.StoragePoolRefresh(p, 0) }),
			poolCommand("autostart", "start a pool when the host boots", "change autostart of", "Autostart of pool '%s' changed",
				[]cli.Flag{&cli.BoolFlag{Name: "disable", Usage: "do not start it any more"}}, poolAutostart),
		},
	}}
}

// poolCommand is a command that does one call on a pool and says so.
func poolCommand(name, usage, verb, said string, flags []cli.Flag, call func(*cli.Context, *session, libvirt.StoragePool) error) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, ArgsUsage: "POOL", Flags: flags, BashComplete: complete(poolNames),
		Action: withPool(func(c *cli.Context, s *session, p libvirt.StoragePool) error {
			if err := call(c, s, p); err != nil {
				return fmt.Errorf("failed to %s pool '%s': %w", verb, p.Name, err)
			}
			return done(c, said, p.Name)
		})}
}

// withPool runs a command's body with the pool that its first argument names.
func withPool(body func(*cli.Context, *session, libvirt.StoragePool) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		return withSession(func(c *cli.Context, s *session) error {
			p, err := s.pool(c.Args().First())
			if err != nil {
				return err
			}
			return body(c, s, p)
		})(c)
	}
}

// pool finds a pool by UUID, then by name.
func (s *session) pool(arg string) (libvirt.StoragePool, error) {
	if u, err := uuid.Parse(arg); err == nil {
		if p, err := s.StoragePoolLookupByUUID(libvirt.UUID(u)); err == nil {
			return p, nil
		}
	}
	p, err := s.StoragePoolLookupByName(arg)
	if err != nil {
		return p, fmt.Errorf("failed to get pool '%s': %w", arg, err)
	}
	return p, nil
}

// poolDescription is what list and info print of a pool.
type poolDescription struct {
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	Type       string `json:"type"`
	State      string `json:"state"`
	Persistent bool   `json:"persistent"`
	Autostart  bool   `json:"autostart"`
	Capacity   uint64 `json:"capacityBytes"`
	Allocation uint64 `json:"allocationBytes"`
	Available  uint64 `json:"availableBytes"`
}

func (s *session) describePool(p libvirt.StoragePool) (poolDescription, error) {
	d := poolDescription{Name: p.Name, UUID: uuid.UUID(p.UUID).String(), State: "inactive"}
	state, capacity, allocation, available, err := s.StoragePoolGetInfo(p)
	if err != nil {
		return d, err
	}
	if libvirt.StoragePoolState(state) != libvirt.StoragePoolInactive {
		d.State = "active"
	}
	d.Capacity, d.Allocation, d.Available = capacity, allocation, available
	if d.Type, err = s.poolType(p); err != nil {
		return d, err
	}
	persistent, err := s.StoragePoolIsPersistent(p)
	if err != nil {
		return d, err
	}
	auto, err := s.StoragePoolGetAutostart(p)
	d.Persistent, d.Autostart = persistent != 0, auto != 0
	return d, err
}

func poolList(c *cli.Context, s *session) error {
	flags := libvirt.ConnectListStoragePoolsActive
	switch {
	case c.Bool("all"):
		flags |= libvirt.ConnectListStoragePoolsInactive
	case c.Bool("inactive"):
		flags = libvirt.ConnectListStoragePoolsInactive
	}
	pools, _, err := s.ConnectListAllStoragePools(1, flags)
	if err != nil {
		return err
	}
	out := make([]poolDescription, 0, len(pools))
	for _, p := range pools {
		d, err := s.describePool(p)
		if err != nil {
			continue // it went away since the list was made, or its directory did
		}
		out = append(out, d)
	}
	return emit(c, out, func(w io.Writer) error {
		rows := make([][]string, 0, len(out))
		for _, d := range out {
			rows = append(rows, []string{d.Name, d.Type, d.State, yesNo(d.Autostart)})
		}
		return table(w, []string{"Name", "Type", "State", "Autostart"}, rows)
	})
}

func poolInfo(c *cli.Context, s *session, p libvirt.StoragePool) error {
	d, err := s.describePool(p)
	if err != nil {
		return err
	}
	return emit(c, d, func(w io.Writer) error {
		fields := []field{{"Name", d.Name}, {"UUID", d.UUID}, {"Type", d.Type}, {"State", d.State}, {"Persistent", yesNo(d.Persistent)}, {"Autostart", yesNo(d.Autostart)}}
		if d.State == "active" {
			fields = append(fields, field{"Capacity", sizeText(d.Capacity)}, field{"Allocation", sizeText(d.Allocation)}, field{"Available", sizeText(d.Available)})
		}
		return describe(w, fields)
	})
}

// sizeText prints bytes in the unit that people read.
func sizeText(bytes uint64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	if bytes < 1024 {
		return strconv.FormatUint(bytes, 10) + " B"
	}
	f, unit := float64(bytes), -1
	for f >= 1024 && unit+1 < len(units) {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.2f %s", f, units[unit])
}

func poolDumpXML(c *cli.Context, s *session, p libvirt.StoragePool) error {
	var flags libvirt.StorageXMLFlags
	if c.Bool("inactive") {
		flags |= libvirt.StorageXMLInactive
	}
	xml, err := s.StoragePoolGetXMLDesc(p, flags)
	if err != nil {
		return err
	}
	return emit(c, map[string]string{"name": p.Name, "xml": xml}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, xml)
		return err
	})
}

func poolDefine(c *cli.Context) error {
	text, err := readDocument(c, c.Args().First())
	if err != nil {
		return err
	}
	return withSession(func(c *cli.Context, s *session) error {
		p, err := s.StoragePoolDefineXML(text, 0)
		if err != nil {
			return fmt.Errorf("failed to define pool from %s: %w", c.Args().First(), err)
		}
		return done(c, "Pool '%s' defined from %s", p.Name, c.Args().First())
	})(c)
}

func poolAutostart(c *cli.Context, s *session, p libvirt.StoragePool) error {
	on := int32(1)
	if c.Bool("disable") {
		on = 0
	}
	return s.StoragePoolSetAutostart(p, on)
}
