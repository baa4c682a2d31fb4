package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"virtd/sasl"
)

// authConfig says what clients must prove, by the way they come. The settings are libvirtd.conf's.
type authConfig struct {
	UnixRW, UnixRO, TCP, TLS string // authNone or authSASL
	// Allowed are patterns of the users that may come in; nil: every user who has a password.
	Allowed []string
}

const (
	authNone = "none" // whoever may connect may manage
	authSASL = "sasl" // a name and a password
)

// defaultAuth asks for passwords where nothing else tells who connects.
var defaultAuth = authConfig{UnixRW: authNone, UnixRO: authNone, TCP: authSASL, TLS: authNone}

func init() {
	settings["auth_unix_rw"] = scheme(func(c *config) *string { return &c.Auth.UnixRW })
	settings["auth_unix_ro"] = scheme(func(c *config) *string { return &c.Auth.UnixRO })
	settings["auth_tcp"] = scheme(func(c *config) *string { return &c.Auth.TCP })
	settings["auth_tls"] = scheme(func(c *config) *string { return &c.Auth.TLS })
	settings["sasl_allowed_username_list"] = func(c *config, v string) (err error) {
		c.Auth.Allowed, err = list(v)
		return err
	}
	settings["max_anonymous_clients"] = number(1, 1<<20, func(c *config) *int { return &c.MaxAnonymous })
}

func scheme(field func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		switch v {
		case authNone, authSASL:
			*field(c) = v
			return nil
		case "polkit":
			return fmt.Errorf("polkit is not used here: access to the unix sockets is by unix_sock_group; use none or sasl")
		}
		return fmt.Errorf("'%s' is neither none nor sasl", v)
	}
}

// list reads libvirt's form of a list of strings: [ "one", "two" ].
func list(v string) ([]string, error) {
	inner, ok := strings.CutPrefix(v, "[")
	inner, closed := strings.CutSuffix(strings.TrimSpace(inner), "]")
	if !ok || !closed {
		return nil, fmt.Errorf(`'%s' is not a list such as [ "one", "two" ]`, v)
	}
	items := []string{}
	for rest := strings.TrimSpace(inner); rest != ""; {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil || quoted[0] != '"' {
			return nil, fmt.Errorf(`'%s' in a list is not a string in double quotes`, rest)
		}
		item, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
		rest = strings.TrimSpace(rest[len(quoted):])
		if after, comma := strings.CutPrefix(rest, ","); comma {
			rest = strings.TrimSpace(after)
		} else if rest != "" {
			return nil, fmt.Errorf("a comma is missing before '%s'", rest)
		}
	}
	return items, nil
}

// users are those who have a password.
func users(cfg config) *sasl.Users {
	return sasl.NewUsers(filepath.Join(cfg.StateDir, "sasl", "users.json"))
}

// authenticator returns what clients of a scheme prove by who they are: nil for none.
func authenticator(cfg config, scheme string) *sasl.Authenticator {
	if scheme != authSASL {
		return nil
	}
	return sasl.NewAuthenticator(users(cfg), cfg.Auth.Allowed)
}

// asksPasswords reports whether any listener does.
func (c config) asksPasswords() bool {
	return c.Auth.UnixRW == authSASL || c.Auth.UnixRO == authSASL || c.TCP.Listen && c.Auth.TCP == authSASL || c.TLS.Listen && c.Auth.TLS == authSASL
}

// loopback reports whether only this host can reach an address that something listens at.
func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
