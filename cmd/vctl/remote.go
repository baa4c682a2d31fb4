package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt/socket"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// transport is how a URI says to reach the daemon: "unix", "tcp", "tls", or one of the kinds of ssh.
func (t target) transport() string {
	if t.socket != "" {
		return "unix"
	}
	if _, kind, ok := strings.Cut(t.uri.Scheme, "+"); ok {
		return kind
	}
	return "tls"
}

// direct reports whether vctl itself makes the connection; go-libvirt does over ssh.
func (t target) direct() bool {
	switch t.transport() {
	case "unix", "tcp", "tls":
		return true
	}
	return false
}

// dialRemote connects to a daemon of another host.
func (t target) dialRemote() (net.Conn, error) {
	var d socket.Dialer
	if t.transport() == "tcp" {
		d = dialers.NewRemote(t.uri.Hostname(), dialers.WithRemoteTimeout(connectTimeout), dialers.UsePort(t.port("16509")))
	} else {
		options, err := tlsOptions(t.uri.Query())
		if err != nil {
			return nil, err
		}
		d = dialers.NewTLS(t.uri.Hostname(), append(options, dialers.UseTLSPort(t.port("16514")))...)
	}
	conn, err := d.Dial()
	if err != nil {
		return nil, fmt.Errorf("failed to connect to the hypervisor at %s: %w", t.uri.Host, err)
	}
	return conn, nil
}

func (t target) port(standard string) string {
	if p := t.uri.Port(); p != "" {
		return p
	}
	return standard
}

func tlsOptions(q url.Values) (options []dialers.TLSOption, err error) {
	if path := q.Get("pkipath"); path != "" {
		options = append(options, dialers.UsePKIPath(path))
	}
	if v := q.Get("no_verify"); v != "" {
		trust, err := strconv.Atoi(v)
		if err != nil {
			return nil, errors.New("no_verify in the connection URI is neither 0 nor 1")
		}
		if trust != 0 {
			options = append(options, dialers.WithInsecureNoVerify())
		}
	}
	return options, nil
}
