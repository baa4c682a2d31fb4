package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"virtd/rpc"
	"virtd/rpc/client"
)

func consoleCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "console", Category: "Running", Usage: "connect to a domain's serial console", ArgsUsage: "DOMAIN",
		Description: "^] (Ctrl and ]) leaves. Without a terminal the console's output is copied and standard input is typed.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "devname", Usage: "alias of the serial port or console `DEVICE`, for example serial1"},
			&cli.BoolFlag{Name: "force", Usage: "disconnect whoever is connected"},
			&cli.BoolFlag{Name: "safe", Usage: "fail when the console is in use"},
		},
		Action: withDomain(func(c *cli.Context, s *session, d libvirt.Domain) error {
			return runConsole(c, s, d, consoleOptions{})
		}),
		BashComplete: complete(activeDomain),
	}}
}

// escapeByte ends a console session: ^].
const escapeByte = 0x1d

// consoleOptions vary a console session.
type consoleOptions struct {
	resume bool // let the domain go on once the console is open
}

// runConsole connects the terminal to a domain's console until the user leaves or the domain stops. It takes a
// connection of its own, because go-libvirt's streams only receive.
func runConsole(c *cli.Context, s *session, d libvirt.Domain, o consoleOptions) error {
	if !s.target.direct() {
		return errors.New("consoles do not work over qemu+ssh; run vctl on the host itself, or connect over TLS")
	}
	conn, err := s.target.dial()
	if err != nil {
		return err
	}
	rc := client.New(conn)
	defer rc.Close()
	if err := rc.Open(c.Context, string(s.target.name), false); err != nil {
		return err
	}
	stream, err := openConsole(c, rc, d)
	if err != nil {
		return fmt.Errorf("failed to open the console of domain '%s': %w", d.Name, err)
	}
	restore, err := rawTerminal(c.App.Reader)
	if err != nil {
		return err
	}
	defer restore()
	fmt.Fprintf(c.App.ErrWriter, "Connected to domain '%s'\r\nEscape character is ^] (Ctrl + ])\r\n", d.Name)
	if o.resume {
		if err := s.DomainResume(d); err != nil {
			return err
		}
	}
	return copyConsole(c.Context, stream, c.App.Reader, c.App.Writer)
}

func openConsole(c *cli.Context, rc *client.Client, d libvirt.Domain) (*client.Stream, error) {
	args := libvirt.DomainOpenConsoleArgs{Dom: d}
	if name := c.String("devname"); name != "" {
		args.DevName = libvirt.OptString{name}
	}
	if c.Bool("force") {
		args.Flags |= uint32(libvirt.DomainConsoleForce)
	}
	if c.Bool("safe") {
		args.Flags |= uint32(libvirt.DomainConsoleSafe)
	}
	return rc.OpenStream(c.Context, rpc.ProgramRemote, rpc.ProcDomainOpenConsole, &args, nil)
}

// rawTerminal puts in, when it is a terminal, into raw mode and returns what undoes it.
func rawTerminal(in io.Reader) (restore func(), err error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), old) }, nil
}

// copyConsole copies both ways until the guest's side ends, the user types the escape, or ctx ends. The end of input
// without an escape stops the typing only.
func copyConsole(ctx context.Context, stream *client.Stream, in io.Reader, out io.Writer) error {
	output, typed := make(chan error, 1), make(chan error, 1)
	go func() { // ends with the stream
		_, err := io.Copy(out, stream)
		output <- err
	}()
	go func() { typed <- typeInto(stream, in) }() // ends with the input or the process: a terminal read cannot be stopped
	for {
		select {
		case err := <-output:
			return err
		case err := <-typed:
			if errors.Is(err, errEscape) {
				return stream.Abort()
			}
			if err != nil {
				return err
			}
			typed = nil
		case <-ctx.Done():
			return errors.Join(stream.Abort(), errSilent)
		}
	}
}

var errEscape = errors.New("escape typed")

// typeInto sends what is typed until the escape or the end of input.
func typeInto(w io.Writer, in io.Reader) error {
	buf := make([]byte, 1024)
	for {
		n, err := in.Read(buf)
		for i, b := range buf[:n] {
			if b == escapeByte {
				if i > 0 {
					if _, err := w.Write(buf[:i]); err != nil {
						return err
					}
				}
				return errEscape
			}
		}
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
