package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"virtd/rpc"
)

// tlsConfig are the settings of connections from other hosts, as libvirtd.conf names them. Off unless asked for.
type tlsConfig struct {
	Listen  bool
	Address string // "" is every address of the host
	Port    string
	CA      string // who signs the certificates of clients, in PEM
	Cert    string
	Key     string
	// NoVerify lets clients in without a certificate, which is for those who prove who they are by a password.
	NoVerify bool
}

// defaultTLS are libvirt's port and files.
var defaultTLS = tlsConfig{
	Port: "16514", CA: "/etc/pki/CA/cacert.pem",
	Cert: "/etc/pki/libvirt/servercert.pem", Key: "/etc/pki/libvirt/private/serverkey.pem",
}

func init() {
	settings["listen_tls"] = onOff(func(c *config) *bool { return &c.TLS.Listen })
	settings["tls_no_verify_certificate"] = onOff(func(c *config) *bool { return &c.TLS.NoVerify })
	settings["listen_addr"] = func(c *config, v string) error {
		c.TLS.Address, c.TCP.Address = v, v
		return nil
	}
	settings["tls_port"] = text(func(c *config) *string { return &c.TLS.Port })
	settings["ca_file"] = text(func(c *config) *string { return &c.TLS.CA })
	settings["cert_file"] = text(func(c *config) *string { return &c.TLS.Cert })
	settings["key_file"] = text(func(c *config) *string { return &c.TLS.Key })
}

const (
	handshakeTime  = 10 * time.Second // from connecting to a verified certificate
	handshakesOnce = 64               // under way at a time; a connection beyond that is closed
)

// secureListener admits clients that have a certificate of the configured authority, or prove who they are by a password, or
// both, as configured. They may then manage domains.
type secureListener struct {
	net.Listener
	policy rpc.Policy
	tls    *tls.Config
	log    *slog.Logger
	within time.Duration // for a handshake
	slots  chan struct{}
}

// listenTLS opens the port. What is wrong with a certificate is told now, not to the first client.
func listenTLS(cfg tlsConfig, policy rpc.Policy, log *slog.Logger) (*secureListener, error) {
	if cfg.NoVerify && policy.SASL == nil {
		return nil, errors.New("listen for TLS: with tls_no_verify_certificate = 1 anybody could manage guests; set auth_tls = \"sasl\" too")
	}
	cert, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate (cert_file, key_file): %w", err)
	}
	pem, err := os.ReadFile(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority (ca_file): %w", err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the certificate authority: %s has no certificate in PEM", cfg.CA)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(cfg.Address, cfg.Port))
	if err != nil {
		return nil, fmt.Errorf("listen for TLS: %w", err)
	}
	clientAuth := tls.RequireAndVerifyClientCert
	if cfg.NoVerify {
		clientAuth = tls.NoClientCert
	}
	log.Info("listening", "tls", l.Addr().String())
	return &secureListener{
		Listener: l, policy: policy, log: log, within: handshakeTime, slots: make(chan struct{}, handshakesOnce),
		tls: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
			ClientAuth: clientAuth, ClientCAs: clients,
			SessionTicketsDisabled: true, // libvirt's clients take a ticket that comes before the confirmation for a failure
		},
	}, nil
}

// serveUntil is serve until ctx ends, when the port is closed: the server does not know this listener.
func (s *secureListener) serveUntil(ctx context.Context, server *rpc.Server) error {
	defer context.AfterFunc(ctx, func() { s.Close() })()
	return s.serve(ctx, server)
}

// serve accepts clients until the listener is closed, and returns when the last one has left.
func (s *secureListener) serve(ctx context.Context, server *rpc.Server) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := s.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.log.Warn("cannot accept a connection", "error", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second): // most likely out of descriptors
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		clients.Go(func() {
			secure, err := s.handshake(ctx, conn)
			<-s.slots
			if err != nil {
				s.log.Info("refused a connection", "peer", conn.RemoteAddr(), "error", err)
				conn.Close()
				return
			}
			server.ServeConn(secure, s.policy)
		})
	}
}

// handshake proves both sides to each other. libvirt's clients then wait for one byte that says so.
func (s *secureListener) handshake(ctx context.Context, conn net.Conn) (*tls.Conn, error) {
	secure := tls.Server(conn, s.tls)
	ctx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if err := secure.SetWriteDeadline(time.Now().Add(s.within)); err != nil {
		return nil, err
	}
	if _, err := secure.Write([]byte{1}); err != nil {
		return nil, err
	}
	return secure, secure.SetWriteDeadline(time.Time{})
}
