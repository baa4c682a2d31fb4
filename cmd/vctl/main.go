package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"virtd/release"
)

func main() {
	if calledAs() == sshHelperName {
		os.Exit(runSSHHelper(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit status: 0 on success, 1 on any failure, as virsh does.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := app(stdin, stdout, stderr)
	a.Metadata = map[string]any{argumentsKey: args}
	err := a.RunContext(ctx, optionsFirst(a, args))
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(stderr, "error: %s\n", text)
	}
	return 1
}

// argumentsKey is where an app's metadata have the whole command line.
const argumentsKey = "arguments"

// errSilent ends a command with status 1 when it has already said why.
var errSilent = errors.New("")

// app describes the whole command line.
func app(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	a := &cli.App{
		Name:    "vctl",
		Usage:   "manage virtual machines through virtd",
		Version: release.Version,
		Description: "vctl sends its requests to the daemon at the connection URI, virtd or any libvirt daemon.\n" +
			"DOMAIN is a name, an id or a UUID.\n\n" +
			"URI is qemu:///system or qemu:///session, or for another host qemu://HOST/system (TLS), qemu+libssh2://HOST/system or\n" +
			"qemu+tcp://HOST/system (not encrypted). A name and a password, where the daemon asks for them, come from the file that\n" +
			"authfile= in the URI names, the variable LIBVIRT_AUTH_FILE, ~/.config/libvirt/auth.conf or /etc/libvirt/auth.conf, in\n" +
			"libvirt's form, else from the terminal.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "connect", Aliases: []string{"c"}, Usage: "connection `URI`",
				EnvVars: []string{"VIRTD_URI", "LIBVIRT_DEFAULT_URI"}},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` of printed data: text or json", Value: "text"},
		},
		EnableBashCompletion: true,
		Reader:               stdin,
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // run prints the error, once
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return fmt.Errorf("%w; vctl --help lists the options", err)
		},
		Before: func(c *cli.Context) error {
			if f := c.String("output"); f != "text" && f != "json" {
				return fmt.Errorf("output format '%s': use text or json", f)
			}
			return nil
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("unknown command: '%s'; vctl --help lists the commands", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: concat(definitionCommands(), lifecycleCommands(), saveCommands(), consoleCommands(), infoCommands(), memoryCommands(),
			deviceCommands(), diskCommands(), nicCommands(), poolCommands(), volCommands(), netCommands(), bridgeCommands(), eventCommands(), hostCommands(), nodedevCommands(),
			sriovCommands(), passthroughCommands(), shellCommands()),
	}
	strict("", a.Commands)
	return a
}

func concat(groups ...[]*cli.Command) []*cli.Command {
	var all []*cli.Command
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}
