package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// sshHelperName is the program that libvirt's clients start on the far side of ssh, for URIs like qemu+ssh://HOST/system. It is
// installed as a link to vctl.
const sshHelperName = "virt-ssh-helper"

// runSSHHelper is virt-ssh-helper: it connects what comes from the client, on its standard input, with the socket of the daemon
// that the URI names, and the other way, until one side ends.
func runSSHHelper(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	err := sshHelper(args, stdin, stdout)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %s\n", sshHelperName, err)
	return 1
}

func sshHelper(args []string, stdin io.Reader, stdout io.Writer) error {
	text, readOnly := "", false
	for _, a := range args {
		switch {
		case a == "-r" || a == "--readonly":
			readOnly = true
		case a == "-h" || a == "--help":
			_, err := fmt.Fprintf(stdout, "usage: %s [-r|--readonly] URI\n", sshHelperName)
			return err
		case strings.HasPrefix(a, "-") || text != "":
			return fmt.Errorf("unexpected argument '%s'; usage: %s [-r|--readonly] URI", a, sshHelperName)
		default:
			text = a
		}
	}
	if text == "" {
		return fmt.Errorf("a URI is missing; usage: %s [-r|--readonly] URI", sshHelperName)
	}
	conn, err := dialHelper(text, readOnly)
	if err != nil {
		return err
	}
	defer conn.Close()
	return splice(conn, stdin, stdout)
}

// dialHelper connects to the first of the sockets that the URI can mean and that somebody listens on.
func dialHelper(text string, readOnly bool) (*net.UnixConn, error) {
	sockets, err := helperSockets(text, readOnly)
	if err != nil {
		return nil, err
	}
	for i, path := range sockets {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			return conn, nil
		}
		if last := i == len(sockets)-1; last || !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no daemon answers on '%s': %w; is virtd running?", path, err)
		}
	}
	return nil, fmt.Errorf("no socket for '%s'", text)
}

// helperSockets are the sockets that libvirt's library would try for a local connection to the URI.
func helperSockets(text string, readOnly bool) ([]string, error) {
	uri, err := url.Parse(text)
	if err != nil || uri.Scheme == "" {
		return nil, fmt.Errorf("connection URI '%s' is not like qemu:///system", text)
	}
	if uri.Host != "" || strings.Contains(uri.Scheme, "+") {
		return nil, fmt.Errorf("connection URI '%s' is not local; %s leads to a daemon on this host", text, sshHelperName)
	}
	if path := uri.Query().Get("socket"); path != "" {
		return []string{path}, nil
	}
	dir, ending := filepath.Dir(systemSocket), ""
	if uri.Path == "/session" {
		dir = filepath.Dir(sessionSocket())
	} else if readOnly {
		ending = "-ro" // a session has no socket for readers only
	}
	return []string{filepath.Join(dir, "virtqemud-sock"+ending), filepath.Join(dir, "libvirt-sock"+ending)}, nil
}

// splice copies in both directions. It ends with the daemon's side: a client that has said all still gets its answers.
func splice(conn *net.UnixConn, stdin io.Reader, stdout io.Writer) error {
	go func() {
		// ends with the process at the latest: a read of standard input cannot be interrupted
		if _, err := io.Copy(conn, stdin); err == nil {
			conn.CloseWrite()
		}
	}()
	if _, err := io.Copy(stdout, conn); err != nil {
		return fmt.Errorf("the connection ended: %w", err)
	}
	return nil
}

// calledAs is the name by which this program was started.
func calledAs() string { return filepath.Base(os.Args[0]) }
