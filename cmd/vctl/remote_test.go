package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/rpc"
	"virtd/sasl"
)

// TestPasswordOverTCP: vctl's ordinary calls, private calls and consoles over TCP, with a password from libvirt's file.
func TestPasswordOverTCP(t *testing.T) {
	b := newBed(t)
	users := sasl.NewUsers(filepath.Join(b.dir, "users"))
	if _, err := users.Set("fred", "secret"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go b.server.Serve(l, rpc.Policy{Plain: true, SASL: sasl.NewAuthenticator(users, nil)})
	file := filepath.Join(b.dir, "auth.conf")
	write := func(password string) {
		text := "# libvirt's file\n[credentials-far]\nauthname=fred\npassword=" + password + "\n\n[auth-libvirt-127.0.0.1]\ncredentials=far\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("LIBVIRT_AUTH_FILE", "") // none of the machine's
	uri := "qemu+tcp://" + l.Addr().String() + "/system"
	for _, tt := range []struct {
		uri, password, line string
		status              int
		want                string
	}{
		{uri + "?authfile=" + file, "secret", "version", 0, "testhost"},
		{uri + "?authfile=" + file, "secret", "host-check", 1, "modprobe kvm_amd"},
		{uri + "?authfile=" + file, "secret", "console none", 1, "Domain not found"},
		{uri + "?authfile=" + file, "wrong", "version", 1, "authentication failed: authentication failed"},
		{uri + "?authfile=" + file, "wrong", "host-check", 1, "authentication failed: authentication failed"},
		{uri + "?authfile=" + file + "-none", "secret", "version", 1, "read the credentials"},
		{"qemu+tcp://127.0.0.1:1/system", "secret", "version", 1, "failed to connect to the hypervisor at 127.0.0.1:1"},
	} {
		write(tt.password)
		var out, errs bytes.Buffer
		status := run(context.Background(), append([]string{"vctl", "-c", tt.uri}, strings.Fields(tt.line)...), strings.NewReader(""), &out, &errs)
		if status != tt.status || !strings.Contains(out.String()+errs.String(), tt.want) {
			t.Errorf("%s %s: %d %q %q, want %q", tt.uri, tt.line, status, out.String(), errs.String(), tt.want)
		}
	}
}

func TestParseCredentials(t *testing.T) {
	text := `
[credentials-one]
authname = fred
password = a=b
; comment
[credentials-two]
authname=mary
[auth-libvirt-near]
credentials=one
[auth-libvirt-default]
credentials=two
`
	for host, want := range map[string]credentials{"near": {"fred", "a=b"}, "far": {"mary", ""}} {
		if got, err := parseCredentials(strings.NewReader(text), host); err != nil || got != want {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	if got, err := parseCredentials(strings.NewReader(""), "near"); err != nil || got != (credentials{}) {
		t.Errorf("an empty file: %+v, %v", got, err)
	}
	for _, bad := range []string{"authname=x", "[credentials-x]\njunk"} {
		if _, err := parseCredentials(strings.NewReader(bad), "near"); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
