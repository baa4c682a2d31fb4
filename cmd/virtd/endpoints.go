package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"virtd/rpc"
)

// endpoint is one place where clients come in.
type endpoint struct {
	net.Listener
	serve func(context.Context, *rpc.Server) error
}

// openEndpoints opens everything that the settings ask for, or nothing.
func openEndpoints(cfg config, log *slog.Logger) (all []endpoint, err error) {
	defer func() {
		if err != nil {
			for _, e := range all {
				e.Close()
			}
			all = nil
		}
	}()
	manage, look, err := policies(cfg)
	if err != nil {
		return all, err
	}
	plain := func(l net.Listener, policy rpc.Policy) {
		all = append(all, endpoint{l, func(_ context.Context, s *rpc.Server) error { return s.Serve(l, policy) }})
	}
	sockets, err := listen(cfg, log)
	if err != nil {
		return all, err
	}
	for _, s := range sockets {
		if s.readOnly {
			plain(s, look)
		} else {
			plain(s, manage)
		}
	}
	if cfg.TCP.Listen {
		l, err := listenTCP(cfg, log)
		if err != nil {
			return all, err
		}
		plain(l, rpc.Policy{Plain: true, SASL: authenticator(cfg, cfg.Auth.TCP)})
	}
	if cfg.TLS.Listen {
		l, err := listenTLS(cfg.TLS, rpc.Policy{SASL: authenticator(cfg, cfg.Auth.TLS)}, log)
		if err != nil {
			return all, err
		}
		all = append(all, endpoint{l, l.serveUntil})
	}
	return all, checkUsers(cfg, log)
}

// checkUsers says at start what would otherwise be found out by the first client that cannot come in.
func checkUsers(cfg config, log *slog.Logger) error {
	if !cfg.asksPasswords() {
		return nil
	}
	names, err := users(cfg).List()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		log.Warn("clients are asked for a name and a password, and nobody has one: virtd sasl-user add NAME", "file", users(cfg).Path())
	}
	return nil
}

// run accepts clients until the server is shut down, or ctx ends.
func (e endpoint) run(ctx context.Context, server *rpc.Server) error {
	if err := e.serve(ctx, server); err != nil {
		return fmt.Errorf("serve %s: %w", e.Addr(), err)
	}
	return nil
}
