package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
)

// serveEndpoints serves a daemon that knows its host's name, and nothing else, until the test ends.
func serveEndpoints(t *testing.T, opts rpc.Options, endpoints []endpoint) {
	t.Helper()
	registry := rpc.NewRegistry()
	rpc.HandleAuth(registry)
	rpc.Handle(registry, rpc.ProgramRemote, rpc.ProcConnectOpen, func(_ context.Context, c *rpc.Call, a *libvirt.ConnectOpenArgs) (*struct{}, error) {
		c.Conn.Open(a.Flags&libvirt.ConnectRo != 0)
		return nil, nil
	})
	rpc.Handle(registry, rpc.ProgramRemote, rpc.ProcConnectIsSecure, func(_ context.Context, c *rpc.Call, _ *struct{}) (*libvirt.ConnectIsSecureRet, error) {
		ret := &libvirt.ConnectIsSecureRet{}
		if c.Conn.Secure() {
			ret.Secure = 1
		}
		return ret, nil
	})
	rpc.Handle(registry, rpc.ProgramRemote, rpc.ProcConnectGetHostname, func(context.Context, *rpc.Call, *struct{}) (*libvirt.ConnectGetHostnameRet, error) {
		return &libvirt.ConnectGetHostnameRet{Hostname: "far"}, nil
	})
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.AuthFailureDelay = time.Millisecond
	server := rpc.NewServer(registry, opts)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, len(endpoints))
	for _, e := range endpoints {
		go func() { served <- e.run(ctx, server) }()
	}
	t.Cleanup(func() {
		stop()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		for range endpoints {
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	})
}

// remoteHost is what clients of this test connect to.
type remoteHost struct {
	dir      string // certificates, files of credentials
	sock     string
	tcp, tls string // ports
	log      bytes.Buffer
}

// serveRemote opens every kind of endpoint on this host, with the user fred whose password is "secret".
func serveRemote(t *testing.T, change func(*config)) *remoteHost {
	t.Helper()
	h := &remoteHost{dir: shortDir(t)}
	cfg := systemDefaults(t)
	cfg.StateDir, cfg.SocketDir, cfg.SocketGroup = h.dir, h.dir, ""
	cfg.TLS = makeCertificates(t, h.dir)
	cfg.TCP = tcpConfig{Listen: true, Address: "127.0.0.1", Port: "0"}
	cfg.Auth = authConfig{UnixRW: authSASL, UnixRO: authSASL, TCP: authSASL, TLS: authSASL}
	change(&cfg)
	if _, err := users(cfg).Set("fred", "secret"); err != nil {
		t.Fatal(err)
	}
	endpoints, err := openEndpoints(cfg, slog.New(slog.NewTextHandler(&h.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	h.sock = filepath.Join(h.dir, "libvirt-sock")
	for _, e := range endpoints {
		if _, port, err := net.SplitHostPort(e.Addr().String()); err == nil && h.tcp == "" {
			h.tcp = port
		} else if err == nil {
			h.tls = port
		}
	}
	serveEndpoints(t, rpc.Options{}, endpoints)
	return h
}

// authFile writes libvirt's file of credentials for every host.
func (h *remoteHost) authFile(t *testing.T, name, password string) string {
	t.Helper()
	path := filepath.Join(h.dir, name+"-"+password+".conf")
	text := "[credentials-them]\nauthname=" + name + "\npassword=" + password + "\n[auth-libvirt-localhost]\ncredentials=them\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// needSASLClients skips where libvirt's clients or their SCRAM are not installed.
func needSASLClients(t *testing.T) {
	t.Helper()
	var missing []string
	if _, err := exec.LookPath("virsh"); err != nil {
		missing = append(missing, "libvirt-clients")
	}
	if exec.Command("/usr/bin/python3", "-c", "import libvirt").Run() != nil {
		missing = append(missing, "python3-libvirt")
	}
	if found, _ := filepath.Glob("/usr/lib/*/sasl2/libscram.so"); len(found) == 0 {
		missing = append(missing, "libsasl2-modules")
	}
	switch {
	case len(missing) == 0:
	case os.Getenv("VIRTD_CLIENTS") != "":
		t.Fatalf("not installed, but asked for by VIRTD_CLIENTS: %s", strings.Join(missing, ", "))
	default:
		t.Skipf("not installed: %s", strings.Join(missing, ", "))
	}
}

// TestPasswords: what libvirt's own clients do with passwords, by every way to the daemon.
func TestPasswords(t *testing.T) {
	needSASLClients(t)
	h := serveRemote(t, func(c *config) { c.TLS.NoVerify, c.Auth.Allowed = true, []string{"f*"} })
	bare := t.TempDir() // the authority alone: no certificate of a client
	if err := os.Link(filepath.Join(h.dir, "cacert.pem"), filepath.Join(bare, "cacert.pem")); err != nil {
		t.Fatal(err)
	}
	const refused = "error: authentication failed: authentication failed"
	unix := "qemu:///system?socket=" + h.sock
	tls := "qemu://localhost:" + h.tls + "/system?pkipath=" + bare
	for _, tt := range []struct{ what, uri, name, password, want string }{
		{"unix", unix, "fred", "secret", "far"},
		{"unix, read-only", unix + "-ro", "fred", "secret", "far"},
		{"unix, wrong password", unix, "fred", "wrong", refused},
		{"unix, nobody we know", unix, "nobody", "secret", refused},
		{"unix, not of the list", unix, "mary", "secret", refused},
		{"TLS without certificate", tls, "fred", "secret", "far"},
		{"TLS with certificate", "qemu://localhost:" + h.tls + "/system?pkipath=" + h.dir, "fred", "secret", "far"},
		{"TLS, wrong password", tls, "fred", "wrong", refused},
		// Their own rule: without encryption they want a mechanism that brings its own, and SCRAM has none.
		{"TCP", "qemu+tcp://localhost:" + h.tcp + "/system?", "fred", "secret", "no mechanism available"},
	} {
		uri := strings.TrimSuffix(tt.uri+"&authfile="+h.authFile(t, tt.name, tt.password), "?")
		out, _ := exec.Command("virsh", "-c", strings.Replace(uri, "?&", "?", 1), "hostname").CombinedOutput()
		if got := string(out); !strings.Contains(got, tt.want) || (strings.TrimSpace(got) == "far") != (tt.want == "far") {
			t.Errorf("%s: virsh said %q, want %q", tt.what, got, tt.want)
		}
	}
	for password, want := range map[string]string{"secret": "far 1\n", "wrong": "45 authentication failed: authentication failed\n"} {
		out, err := exec.Command("/usr/bin/python3", "testdata/openauth.py", unix, "fred", password).CombinedOutput()
		if string(out) != want {
			t.Errorf("python with password %q: %q, %v; want %q", password, out, err, want)
		}
	}
}

// TestCertificateAndPassword: where both are asked for, one of them is not enough.
func TestCertificateAndPassword(t *testing.T) {
	needSASLClients(t)
	h := serveRemote(t, func(*config) {})
	bare := t.TempDir()
	if err := os.Link(filepath.Join(h.dir, "cacert.pem"), filepath.Join(bare, "cacert.pem")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, pki, password string
		ok                  bool
	}{{"both", h.dir, "secret", true}, {"certificate alone", h.dir, "wrong", false}, {"password alone", bare, "secret", false}} {
		out, err := exec.Command("virsh", "-c", "qemu://localhost:"+h.tls+"/system?pkipath="+tt.pki+"&authfile="+h.authFile(t, "fred", tt.password), "hostname").CombinedOutput()
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v %q", tt.what, err, out)
		}
	}
}

// TestTCPWithoutPasswords: auth_tcp = "none" serves libvirt's clients over TCP, and virtd says what that means.
func TestTCPWithoutPasswords(t *testing.T) {
	needSASLClients(t)
	h := serveRemote(t, func(c *config) { c.Auth.TCP = authNone })
	out, err := exec.Command("virsh", "-c", "qemu+tcp://localhost:"+h.tcp+"/system", "hostname").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "far" {
		t.Errorf("virsh: %v %q", err, out)
	}
	out, err = exec.Command("/usr/bin/python3", "testdata/openauth.py", "qemu+tcp://localhost:"+h.tcp+"/system", "", "").CombinedOutput()
	if string(out) != "far 0\n" { // not secure
		t.Errorf("python: %v %q", err, out)
	}
	if !strings.Contains(h.log.String(), "may manage guests, and with them the host") {
		t.Errorf("the log does not warn:\n%s", h.log.String())
	}
}

// TestTCPWarnings: what a port that other hosts reach means is told at start, and a port of this host needs no warning when
// it asks for passwords.
func TestTCPWarnings(t *testing.T) {
	for _, tt := range []struct{ address, auth, want string }{
		{"127.0.0.1", authSASL, ""}, {"::1", authSASL, ""}, {"0.0.0.0", authSASL, "not encrypted"}, {"", authSASL, "not encrypted"},
		{"", authNone, "whoever reaches this port may manage guests"}, {"127.0.0.1", authNone, "every user and program of this host"},
	} {
		var log bytes.Buffer
		cfg := config{TCP: tcpConfig{Address: tt.address, Port: "0"}, Auth: authConfig{TCP: tt.auth}}
		l, err := listenTCP(cfg, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
		if err != nil {
			if tt.address == "::1" {
				continue // a host without IPv6
			}
			t.Fatal(err)
		}
		l.Close()
		if got := log.String(); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%q, %s: logged %q, want %q", tt.address, tt.auth, got, tt.want)
		}
	}
}

// TestEndpointsOffByDefault: without settings nothing listens but the unix sockets, and nobody is asked for a password.
func TestEndpointsOffByDefault(t *testing.T) {
	cfg := systemDefaults(t)
	cfg.SocketDir, cfg.StateDir = shortDir(t), t.TempDir()
	endpoints, err := openEndpoints(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	serveEndpoints(t, rpc.Options{}, endpoints)
	if len(endpoints) != 4 {
		t.Errorf("%d endpoints", len(endpoints))
	}
	for _, e := range endpoints {
		if e.Addr().Network() != "unix" {
			t.Errorf("listens at %s %s", e.Addr().Network(), e.Addr())
		}
	}
	for _, name := range []string{"libvirt-sock", "libvirt-sock-ro", "virtqemud-sock", "virtqemud-sock-ro"} {
		c, err := client.Dial(context.Background(), filepath.Join(cfg.SocketDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Open(context.Background(), "qemu:///system", true); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

// TestEndpointsRefused: settings that would let everybody in, or that cannot be, end the start, and nothing is left listening.
func TestEndpointsRefused(t *testing.T) {
	for want, change := range map[string]func(*config){
		"tls_no_verify_certificate": func(c *config) { c.TLS.NoVerify, c.Auth.TLS = true, authNone },
		"listen for TCP":            func(c *config) { c.TCP.Port = "none" },
		"read the users": func(c *config) {
			if err := os.MkdirAll(filepath.Dir(users(*c).Path()), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(users(*c).Path(), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		cfg := systemDefaults(t)
		cfg.StateDir, cfg.SocketDir = t.TempDir(), shortDir(t)
		cfg.TLS = makeCertificates(t, cfg.StateDir)
		cfg.TCP = tcpConfig{Listen: true, Address: "127.0.0.1", Port: "0"}
		change(&cfg)
		endpoints, err := openEndpoints(cfg, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) || len(endpoints) != 0 {
			t.Errorf("want an error with %q, got %v and %d endpoints", want, err, len(endpoints))
		}
		if left, _ := os.ReadDir(cfg.SocketDir); len(left) != 0 {
			t.Errorf("%s: left behind: %v", want, left)
		}
	}
}
