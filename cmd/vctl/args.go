package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// optionsFirst moves a command's options before its operands, because cli stops reading options at the first operand
// and people write "vctl start DOMAIN --console". What follows -- stays where it is.
func optionsFirst(a *cli.App, args []string) []string {
	if last := len(args) - 1; last > 0 && args[last] == completionFlag { // which cli looks for at the end
		return append(optionsFirst(a, args[:last:last]), completionFlag)
	}
	if len(args) < 2 {
		return args
	}
	at := commandIndex(a.Flags, args)
	if at < 0 {
		return args
	}
	cmd := a.Command(args[at])
	if cmd == nil {
		return args
	}
	for len(cmd.Subcommands) > 0 { // the options of a group's command follow its name
		next := commandIndex(cmd.Flags, args[at:])
		if next < 0 {
			return args
		}
		at += next
		sub := subcommand(cmd, args[at])
		if sub == nil {
			return args
		}
		cmd = sub
	}
	options, operands := []string{}, []string{}
	rest := args[at+1:]
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		switch {
		case arg == "--":
			operands = append(operands, rest[i:]...)
			i = len(rest)
		case !isOption(arg):
			operands = append(operands, arg)
		default:
			options = append(options, arg)
			if takesValue(cmd.Flags, arg) && i+1 < len(rest) {
				i++
				options = append(options, rest[i])
			}
		}
	}
	out := append([]string{}, args[:at+1]...)
	return append(append(out, options...), operands...)
}

// completionFlag ends the command lines with which shells ask what the next word can be.
const completionFlag = "--generate-bash-completion"

func subcommand(group *cli.Command, name string) *cli.Command {
	for _, c := range group.Subcommands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// commandIndex is where the command's name stands among args, or -1.
func commandIndex(global []cli.Flag, args []string) int {
	for i := 1; i < len(args); i++ {
		switch {
		case args[i] == "--":
			return -1
		case !isOption(args[i]):
			return i
		case takesValue(global, args[i]):
			i++
		}
	}
	return -1
}

// isOption tells an option from an operand; a lone dash is standard input.
func isOption(arg string) bool { return len(arg) > 1 && arg[0] == '-' }

// takesValue reports whether arg is an option whose value is the next argument.
func takesValue(flags []cli.Flag, arg string) bool {
	if strings.Contains(arg, "=") {
		return false
	}
	name := strings.TrimLeft(arg, "-")
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				_, isBool := f.(*cli.BoolFlag)
				return !isBool
			}
		}
	}
	return false
}
