package main

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
)

// tcpConfig are the settings of connections from other hosts without encryption. Off unless asked for.
type tcpConfig struct {
	Listen  bool
	Address string // "" is every address of the host
	Port    string
}

// defaultTCP is libvirt's port.
var defaultTCP = tcpConfig{Port: "16509"}

func init() {
	settings["listen_tcp"] = onOff(func(c *config) *bool { return &c.TCP.Listen })
	settings["tcp_port"] = text(func(c *config) *string { return &c.TCP.Port })
}

func onOff(field func(*config) *bool) func(*config, string) error {
	return func(c *config, v string) error {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("'%s' is neither 0 nor 1", v)
		}
		*field(c) = on
		return nil
	}
}

// listenTCP opens the port, and says what that means where other hosts can reach it.
func listenTCP(cfg config, log *slog.Logger) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(cfg.TCP.Address, cfg.TCP.Port))
	if err != nil {
		return nil, fmt.Errorf("listen for TCP (listen_tcp, listen_addr, tcp_port): %w", err)
	}
	log.Info("listening", "tcp", l.Addr().String(), "auth", cfg.Auth.TCP)
	switch {
	case cfg.Auth.TCP == authNone && loopback(l.Addr()):
		log.Warn("every user and program of this host may manage guests, and with them the host (auth_tcp = \"none\")", "tcp", l.Addr().String())
	case cfg.Auth.TCP == authNone:
		log.Warn("whoever reaches this port may manage guests, and with them the host (auth_tcp = \"none\"); use TLS (listen_tls) or ssh", "tcp", l.Addr().String())
	case !loopback(l.Addr()):
		log.Warn("what is said over TCP is not encrypted: others on the way can read it, consoles and secrets included, and take connections over; use TLS (listen_tls) or ssh",
			"tcp", l.Addr().String())
	}
	return l, nil
}
