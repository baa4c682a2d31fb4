package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// saslUserRole is the first argument that makes virtd change who has a password, in place of serving.
const saslUserRole = "sasl-user"

const saslUserUsage = `Usage: virtd sasl-user add NAME [OPTION]...
       virtd sasl-user remove NAME [OPTION]...
       virtd sasl-user list [OPTION]...
Say who may connect by a name and a password (auth_tcp, auth_tls, auth_unix_rw
and auth_unix_ro in %s). "add" gives an existing user another
password. The password is asked for, or read from the first line of standard
input. Changes are in force at once; connections that exist stay.

OPTION is --config FILE, --session or --state-dir DIR, as virtd itself has them.
`

// saslUser changes or lists the users and returns the exit status.
func saslUser(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
		fmt.Fprintf(stdout, saslUserUsage, defaultConfigFile)
		return 0
	}
	operands := 1 // the command, and a name where it has one
	if args[0] != "list" && len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		operands = 2
	}
	cfg, _, err := parse(args[operands:], stderr)
	if err == nil {
		err = changeUser(cfg, args[:operands], stdin, stdout, stderr)
	}
	var wrong *usageError
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "virtd: %v; see virtd %s --help\n", err, saslUserRole)
		return 2
	case err != nil:
		fmt.Fprintf(stderr, "virtd: %v\n", err)
		return 1
	}
	return 0
}

// usageError is a command line that makes no sense.
type usageError struct{ text string }

// Error returns what is wrong.
func (e *usageError) Error() string { return e.text }

func changeUser(cfg config, words []string, stdin io.Reader, stdout, stderr io.Writer) error {
	all := users(cfg)
	switch {
	case words[0] == "list":
		names, err := all.List()
		for _, name := range names {
			fmt.Fprintln(stdout, name)
		}
		return err
	case words[0] != "add" && words[0] != "remove":
		return &usageError{fmt.Sprintf("there is no command '%s'", words[0])}
	case len(words) < 2:
		return &usageError{fmt.Sprintf("'%s' needs the name of a user", words[0])}
	case words[0] == "remove":
		return all.Remove(words[1])
	}
	password, err := readPassword(words[1], stdin, stderr)
	if err != nil {
		return err
	}
	added, err := all.Set(words[1], password)
	if err == nil && !added {
		fmt.Fprintf(stderr, "user '%s' has another password now\n", words[1])
	}
	return err
}

// readPassword asks for it, twice, where somebody can answer, and takes the first line of the input elsewhere.
func readPassword(name string, stdin io.Reader, prompt io.Writer) (string, error) {
	f, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(stdin, 64<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	var answers [2][]byte
	for i, text := range []string{"Password of " + name + ": ", "Again: "} {
		fmt.Fprint(prompt, text)
		var err error
		answers[i], err = term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(prompt)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
	}
	if !bytes.Equal(answers[0], answers[1]) {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return string(answers[0]), nil
}
