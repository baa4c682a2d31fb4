package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// strict gives every command what they have in common: operands are counted against ArgsUsage before the command runs, a
// command line that makes no sense is one line on standard error, and groups show their commands. path is the commands'
// parents.
func strict(path string, commands []*cli.Command) {
	for _, c := range commands {
		name := strings.TrimSpace(path + " " + c.Name)
		c.HideHelpCommand = true // else a domain named help could not be an operand
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError(name, err) }
		if len(c.Subcommands) > 0 {
			c.Action, c.UsageText = group, "vctl "+name+" COMMAND [options] [operands]"
			strict(name, c.Subcommands)
			continue
		}
		usage := c.ArgsUsage
		c.Before = func(c *cli.Context) error { return checkOperands(name, usage, c.Args().Slice()) }
	}
}

// group is what a group of commands does by itself.
func group(c *cli.Context) error {
	if c.NArg() > 0 {
		return fmt.Errorf("unknown command: '%s %s'; vctl %s --help lists the commands", c.Command.Name, c.Args().First(), c.Command.Name)
	}
	return cli.ShowSubcommandHelp(c)
}

// usageError says what is wrong with the options of a command in virsh's words, where it has some.
func usageError(name string, err error) error {
	if option, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		if len(option) > 1 {
			option = "-" + option
		}
		return fmt.Errorf("command '%s' doesn't support option -%s; see vctl %s --help", name, option, name)
	}
	return fmt.Errorf("command '%s': %w; see vctl %s --help", name, err, name)
}

// checkOperands compares operands with a command's usage: NAME is one, [NAME] can be left out, [NAME…] comes as often as
// one likes.
func checkOperands(name, usage string, operands []string) error {
	missing, most := []string{}, 0
	for i, word := range strings.Fields(usage) {
		if strings.HasSuffix(word, "…]") {
			return nil
		}
		most++
		if i >= len(operands) && word[0] != '[' {
			missing = append(missing, "<"+strings.ToLower(word)+">")
		}
	}
	if n := len(missing); n > 0 {
		need := missing[n-1]
		if n > 1 {
			need = strings.Join(missing[:n-1], ", ") + " and " + need
		}
		return fmt.Errorf("command '%s' requires %s; see vctl %s --help", name, need, name)
	}
	if len(operands) > most {
		return fmt.Errorf("command '%s': unexpected operand '%s'; see vctl %s --help", name, operands[most], name)
	}
	return nil
}
