package main

import (
	"fmt"
	"path/filepath"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// afterRestore are the options about what the guest does next.
func afterRestore() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "running", Usage: "the guest runs after the restore"},
		&cli.BoolFlag{Name: "paused", Usage: "the guest is paused after the restore"},
	}
}

func saveCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "save", Category: "Saved state", Usage: "write a running guest to a file and stop it", ArgsUsage: "DOMAIN FILE",
			Description: "The file is on disk before the guest is gone. When it cannot be written, the guest goes on.",
			Flags:       afterRestore(), Action: withDomain(save), BashComplete: complete(activeDomain)},
		{Name: "restore", Category: "Saved state", Usage: "start a guest where it was saved", ArgsUsage: "FILE",
			Description: "The file stays. Do not restore it again after the guest has run on: its disks are of a later time then.",
			Flags:       afterRestore(), Action: restore},
		{Name: "managedsave", Category: "Saved state", Usage: "save a guest so that its next start goes on from there", ArgsUsage: "DOMAIN",
			Flags: afterRestore(), Action: withDomain(managedSave), BashComplete: complete(activeDomain)},
		{Name: "managedsave-remove", Category: "Saved state", Usage: "discard what managedsave saved", ArgsUsage: "DOMAIN",
			Action: withDomain(managedSaveRemove), BashComplete: complete(inactiveDomain)},
		{Name: "dump", Category: "Saved state", Usage: "write a guest's memory and registers to an ELF core file", ArgsUsage: "DOMAIN FILE",
			Description: "For crash and gdb. The guest stands still meanwhile and goes on after it.",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "live", Usage: "let the guest run meanwhile; its memory is of different moments then"},
				&cli.BoolFlag{Name: "crash", Usage: "stop the domain after it"},
				&cli.BoolFlag{Name: "reset", Usage: "reset the machine after it"},
			},
			Action: withDomain(dump), BashComplete: complete(activeDomain)},
	}
}

// saveFlags reads the options of afterRestore.
func saveFlags(c *cli.Context) (uint32, error) {
	switch {
	case c.Bool("running") && c.Bool("paused"):
		return 0, fmt.Errorf("--running and --paused exclude each other")
	case c.Bool("running"):
		return uint32(libvirt.DomainSaveRunning), nil
	case c.Bool("paused"):
		return uint32(libvirt.DomainSavePaused), nil
	}
	return 0, nil
}

// fileOperand is operand i made absolute: the daemon has another working directory.
func fileOperand(c *cli.Context, i int) (string, error) {
	return filepath.Abs(c.Args().Get(i))
}

func save(c *cli.Context, s *session, d libvirt.Domain) error {
	path, err := fileOperand(c, 1)
	if err != nil {
		return err
	}
	flags, err := saveFlags(c)
	if err != nil {
		return err
	}
	if err := s.DomainSaveFlags(d, path, nil, flags); err != nil {
		return fmt.Errorf("failed to save domain '%s' to %s: %w", d.Name, c.Args().Get(1), err)
	}
	return done(c, "Domain '%s' saved to %s", d.Name, c.Args().Get(1))
}

func restore(c *cli.Context) error {
	path, err := fileOperand(c, 0)
	if err != nil {
		return err
	}
	flags, err := saveFlags(c)
	if err != nil {
		return err
	}
	return withSession(func(c *cli.Context, s *session) error {
		if err := s.DomainRestoreFlags(path, nil, flags); err != nil {
			return fmt.Errorf("failed to restore domain from %s: %w", c.Args().First(), err)
		}
		return done(c, "Domain restored from %s", c.Args().First())
	})(c)
}

func managedSave(c *cli.Context, s *session, d libvirt.Domain) error {
	flags, err := saveFlags(c)
	if err != nil {
		return err
	}
	if err := s.DomainManagedSave(d, flags); err != nil {
		return fmt.Errorf("failed to save domain '%s': %w", d.Name, err)
	}
	return done(c, "Domain '%s' saved; its next start goes on from there", d.Name)
}

func managedSaveRemove(c *cli.Context, s *session, d libvirt.Domain) error {
	if err := s.DomainManagedSaveRemove(d, 0); err != nil {
		return fmt.Errorf("failed to discard the saved state of domain '%s': %w", d.Name, err)
	}
	return done(c, "The saved state of domain '%s' is discarded", d.Name)
}

func dump(c *cli.Context, s *session, d libvirt.Domain) error {
	path, err := fileOperand(c, 1)
	if err != nil {
		return err
	}
	flags := libvirt.DumpMemoryOnly
	for name, flag := range map[string]libvirt.DomainCoreDumpFlags{"live": libvirt.DumpLive, "crash": libvirt.DumpCrash, "reset": libvirt.DumpReset} {
		if c.Bool(name) {
			flags |= flag
		}
	}
	if err := s.DomainCoreDumpWithFormat(d, path, uint32(libvirt.DomainCoreDumpFormatRaw), flags); err != nil {
		return fmt.Errorf("failed to dump domain '%s' to %s: %w", d.Name, c.Args().Get(1), err)
	}
	return done(c, "Domain '%s' dumped to %s", d.Name, c.Args().Get(1))
}
