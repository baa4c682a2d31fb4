package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/rpc"
)

// authority signs certificates for the test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, file string) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, file, "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a certificate for a name, with its key.
func (a *authority) sign(name, certFile, keyFile string) {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, certFile, "CERTIFICATE", der)
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, keyFile, "PRIVATE KEY", der)
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serveTLS runs a server that knows its host's name, behind TLS, and returns the port and the directory of good credentials.
func serveTLS(t *testing.T, within time.Duration) (port, dir string) {
	t.Helper()
	dir = t.TempDir()
	cfg := makeCertificates(t, dir)
	l, err := listenTLS(cfg, rpc.Policy{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.within = within
	serveEndpoints(t, rpc.Options{}, []endpoint{{l, l.serveUntil}})
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, dir
}

// makeCertificates fills a directory with an authority, a server's certificate for localhost and a client's.
func makeCertificates(t *testing.T, dir string) tlsConfig {
	t.Helper()
	a := newAuthority(t, filepath.Join(dir, "cacert.pem"))
	a.sign("localhost", filepath.Join(dir, "servercert.pem"), filepath.Join(dir, "serverkey.pem"))
	a.sign("some client", filepath.Join(dir, "clientcert.pem"), filepath.Join(dir, "clientkey.pem"))
	return tlsConfig{Listen: true, Address: "127.0.0.1", Port: "0", CA: dir + "/cacert.pem", Cert: dir + "/servercert.pem", Key: dir + "/serverkey.pem"}
}

// TestTLS: virsh reaches the daemon with a certificate, and not with another authority's or none.
func TestTLS(t *testing.T) {
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip("virsh is not installed (package libvirt-clients)")
	}
	port, dir := serveTLS(t, handshakeTime)
	ask := func(pki string) (string, error) {
		out, err := exec.Command(virsh, "-c", "qemu://localhost:"+port+"/system?pkipath="+pki, "hostname").CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := ask(dir); err != nil || out != "far" {
		t.Errorf("with a certificate: %v %q", err, out)
	}
	strange := t.TempDir()
	newAuthority(t, filepath.Join(strange, "own.pem")).sign("some client", filepath.Join(strange, "clientcert.pem"), filepath.Join(strange, "clientkey.pem"))
	if err := os.Link(filepath.Join(dir, "cacert.pem"), filepath.Join(strange, "cacert.pem")); err != nil {
		t.Fatal(err)
	}
	if out, err := ask(strange); err == nil {
		t.Errorf("a certificate of another authority was accepted: %q", out)
	}
}

// TestTLSStrangers: who has no certificate, says something else or says nothing gets no answer of ours and is let go.
func TestTLSStrangers(t *testing.T) {
	port, _ := serveTLS(t, 500*time.Millisecond)
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	silent := dial()
	if n, err := silent.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("a silent client: read %d bytes, %v, want the end", n, err)
	}
	plain := dial()
	plain.Write(make([]byte, 100))
	if got, err := io.ReadAll(plain); len(got) > 10 || os.IsTimeout(err) { // a TLS alert at most
		t.Errorf("a client without TLS got %q, %v", got, err)
	}
	nameless := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true})
	if n, err := nameless.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("a client without certificate: read %d bytes, %v, want a refusal", n, err)
	}
}

// TestTLSFiles: what is missing or no certificate is told at start.
func TestTLSFiles(t *testing.T) {
	dir := t.TempDir()
	good := tlsConfig{Address: "127.0.0.1", Port: "0", CA: dir + "/ca.pem", Cert: dir + "/cert.pem", Key: dir + "/key.pem"}
	newAuthority(t, good.CA).sign("localhost", good.Cert, good.Key)
	if err := os.WriteFile(dir+"/junk", []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*tlsConfig){
		"cert_file": func(c *tlsConfig) { c.Cert = dir + "/none" },
		"key_file":  func(c *tlsConfig) { c.Key = dir + "/junk" },
		"ca_file":   func(c *tlsConfig) { c.CA = dir + "/none" },
		"authority": func(c *tlsConfig) { c.CA = dir + "/junk" },
		"listen":    func(c *tlsConfig) { c.Port = "none" },
	} {
		cfg := good
		change(&cfg)
		l, err := listenTLS(cfg, rpc.Policy{}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		if l != nil {
			l.Close()
		}
	}
}
