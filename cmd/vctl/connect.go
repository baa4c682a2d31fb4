package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"

	"virtd/rpc/client"
)

const (
	systemURI      = "qemu:///system"
	sessionURI     = "qemu:///session"
	systemSocket   = "/var/run/libvirt/libvirt-sock"
	connectTimeout = 15 * time.Second
)

// target is where a connection URI leads.
type target struct {
	uri    *url.URL
	name   libvirt.ConnectURI // what the daemon is asked to open
	socket string             // of a local connection; empty for remote ones
}

// connectionTarget reads the -c flag. Without one root talks to the system's daemon and others to their session's, as
// virsh does.
func connectionTarget(c *cli.Context) (target, error) {
	text := c.String("connect")
	if text == "" {
		if text = sessionURI; os.Geteuid() == 0 {
			text = systemURI
		}
	}
	uri, err := url.Parse(text)
	if err != nil || uri.Scheme == "" {
		return target{}, fmt.Errorf("connection URI '%s' is not like qemu:///system", text)
	}
	t := target{uri: uri, name: libvirt.RemoteURI(uri)}
	if strings.Contains(uri.Scheme, "+") && !strings.HasSuffix(uri.Scheme, "+unix") || uri.Host != "" {
		return t, nil
	}
	if t.socket = uri.Query().Get("socket"); t.socket == "" {
		t.socket = systemSocket
		if uri.Path == "/session" {
			t.socket = sessionSocket()
		}
	}
	return t, nil
}

func sessionSocket() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	return filepath.Join(dir, "libvirt", "libvirt-sock")
}

// dial connects to the daemon and proves who the user is, where the daemon wants to know.
func (t target) dial() (net.Conn, error) {
	connect := t.dialLocal
	if t.socket == "" {
		connect = t.dialRemote
	}
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	if err := client.Authenticate(conn, t.credentials); err != nil {
		conn.Close()
		return nil, fmt.Errorf("failed to connect to the hypervisor: %w", err)
	}
	return conn, nil
}

// dialLocal connects to the daemon's socket and explains the two failures that people meet.
func (t target) dialLocal() (net.Conn, error) {
	conn, err := net.DialTimeout("unix", t.socket, connectTimeout)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("failed to connect to the hypervisor: no daemon listens on '%s'; is virtd running? (systemctl start virtd)", t.socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("failed to connect to the hypervisor: no permission for '%s'; join the socket's group%s, or run as root", t.socket, groupOf(t.socket))
	case err != nil:
		return nil, fmt.Errorf("failed to connect to the hypervisor: %w", err)
	}
	return conn, nil
}

// Dial makes target a go-libvirt dialer.
func (t target) Dial() (net.Conn, error) { return t.dial() }

// session is one connection of a command.
type session struct {
	*libvirt.Libvirt
	target target
}

// open connects. The caller closes.
func open(c *cli.Context) (*session, error) {
	t, err := connectionTarget(c)
	if err != nil {
		return nil, err
	}
	if !t.direct() {
		l, err := libvirt.ConnectToURI(t.uri)
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", t.uri.Redacted(), err)
		}
		return &session{l, t}, nil
	}
	l := libvirt.NewWithDialer(t)
	if err := l.ConnectToURI(t.name); err != nil {
		return nil, err
	}
	return &session{l, t}, nil
}

// Close says good-bye. A daemon that is gone already is no failure of the command that ran.
func (s *session) Close() { _ = s.Disconnect() }

// withSession runs a command's body with an open connection.
func withSession(body func(*cli.Context, *session) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		s, err := open(c)
		if err != nil {
			return err
		}
		defer s.Close()
		return body(c, s)
	}
}

// withDomain runs a command's body with the domain that its first argument names.
func withDomain(body func(*cli.Context, *session, libvirt.Domain) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		return withSession(func(c *cli.Context, s *session) error {
			d, err := s.domain(c.Args().First())
			if err != nil {
				return err
			}
			return body(c, s, d)
		})(c)
	}
}
