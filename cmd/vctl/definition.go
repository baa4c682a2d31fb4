package main

import (
	"fmt"
	"io"
	"os"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func definitionCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "define", Category: "Definitions", Usage: "define a domain from XML, or change its definition", ArgsUsage: "FILE",
			Description: "FILE - is standard input. The domain is on disk when the command returns.",
			Flags:       []cli.Flag{&cli.BoolFlag{Name: "validate", Usage: "refuse unknown elements"}},
			Action:      define},
		{Name: "undefine", Category: "Definitions", Usage: "remove a domain's definition", ArgsUsage: "DOMAIN",
			Description: "A running domain goes on and vanishes when it stops.",
			Flags:       []cli.Flag{&cli.BoolFlag{Name: "nvram", Usage: "remove the firmware's variables too"}, &cli.BoolFlag{Name: "managed-save", Usage: "remove the saved state too"}},
			Action:      withDomain(undefine), BashComplete: complete(anyDomain)},
		{Name: "dumpxml", Category: "Definitions", Usage: "print a domain's XML", ArgsUsage: "DOMAIN",
			Flags:  []cli.Flag{&cli.BoolFlag{Name: "inactive", Usage: "the definition that the next start uses"}, &cli.BoolFlag{Name: "security-info", Usage: "include secrets"}},
			Action: withDomain(dumpXML), BashComplete: complete(anyDomain)},
		{Name: "edit", Category: "Definitions", Usage: "edit a domain's definition", ArgsUsage: "DOMAIN",
			Description: "Opens the definition in $VISUAL or $EDITOR. A text that virtd refuses can be edited again, and is kept in a file if you give up.",
			Action:      withDomain(edit), BashComplete: complete(anyDomain)},
		{Name: "autostart", Category: "Definitions", Usage: "start a domain when the host boots", ArgsUsage: "DOMAIN",
			Flags:  []cli.Flag{&cli.BoolFlag{Name: "disable", Usage: "do not start it any more"}},
			Action: withDomain(autostart), BashComplete: complete(anyDomain)},
	}
}

func define(c *cli.Context) error {
	xml, err := readDocument(c, c.Args().First())
	if err != nil {
		return err
	}
	return withSession(func(c *cli.Context, s *session) error {
		var flags libvirt.DomainDefineFlags
		if c.Bool("validate") {
			flags |= libvirt.DomainDefineValidate
		}
		d, err := s.DomainDefineXMLFlags(xml, flags)
		if err != nil {
			return fmt.Errorf("failed to define domain from %s: %w", c.Args().First(), err)
		}
		return done(c, "Domain '%s' defined from %s", d.Name, c.Args().First())
	})(c)
}

func readDocument(c *cli.Context, path string) (string, error) {
	if path == "-" {
		data, err := io.ReadAll(c.App.Reader)
		return string(data), err
	}
	data, err := os.ReadFile(path)
	return string(data), err
}

func undefine(c *cli.Context, s *session, d libvirt.Domain) error {
	var flags libvirt.DomainUndefineFlagsValues
	if c.Bool("nvram") {
		flags |= libvirt.DomainUndefineNvram
	}
	if c.Bool("managed-save") {
		flags |= libvirt.DomainUndefineManagedSave
	}
	if err := s.DomainUndefineFlags(d, flags); err != nil {
		return fmt.Errorf("failed to undefine domain '%s': %w", d.Name, err)
	}
	return done(c, "Domain '%s' has been undefined", d.Name)
}

func dumpXML(c *cli.Context, s *session, d libvirt.Domain) error {
	var flags libvirt.DomainXMLFlags
	if c.Bool("inactive") {
		flags |= libvirt.DomainXMLInactive
	}
	if c.Bool("security-info") {
		flags |= libvirt.DomainXMLSecure
	}
	xml, err := s.DomainGetXMLDesc(d, flags)
	if err != nil {
		return err
	}
	return emit(c, map[string]string{"name": d.Name, "xml": xml}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, xml)
		return err
	})
}

func autostart(c *cli.Context, s *session, d libvirt.Domain) error {
	on, word := int32(1), "marked as autostarted"
	if c.Bool("disable") {
		on, word = 0, "unmarked as autostarted"
	}
	if err := s.DomainSetAutostart(d, on); err != nil {
		return fmt.Errorf("failed to change autostart of domain '%s': %w", d.Name, err)
	}
	return done(c, "Domain '%s' %s", d.Name, word)
}
