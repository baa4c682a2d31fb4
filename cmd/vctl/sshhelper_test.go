package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain lets the test's own program be virt-ssh-helper and vctl, under those names.
func TestMain(m *testing.M) {
	if calledAs() == sshHelperName {
		os.Exit(runSSHHelper(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if calledAs() == "vctl" {
		main()
	}
	os.Exit(m.Run())
}

func TestHelperSockets(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	for _, tt := range []struct {
		uri      string
		readOnly bool
		want     []string
	}{
		{"qemu:///system", false, []string{"/var/run/libvirt/virtqemud-sock", "/var/run/libvirt/libvirt-sock"}},
		{"qemu:///system", true, []string{"/var/run/libvirt/virtqemud-sock-ro", "/var/run/libvirt/libvirt-sock-ro"}},
		{"qemu:///session", true, []string{"/run/user/7/libvirt/virtqemud-sock", "/run/user/7/libvirt/libvirt-sock"}},
		{"qemu:///system?socket=/tmp/s", true, []string{"/tmp/s"}},
		{"qemu+ssh://other/system", false, nil},
		{"qemu://other/system", false, nil},
		{"nonsense", false, nil},
	} {
		got, err := helperSockets(tt.uri, tt.readOnly)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("%s read-only %t: %v, %v, want %v", tt.uri, tt.readOnly, got, err, tt.want)
		}
	}
}

func TestHelperArguments(t *testing.T) {
	for _, args := range [][]string{{}, {"-r"}, {"-x", "qemu:///system"}, {"qemu:///system", "more"}, {"qemu:///system?socket=/none/such"}} {
		var stderr bytes.Buffer
		if status := runSSHHelper(args, strings.NewReader(""), &bytes.Buffer{}, &stderr); status != 1 || stderr.Len() == 0 {
			t.Errorf("%v: status %d, %q", args, status, stderr.String())
		}
	}
}

// TestSSHHelper: virsh reaches the daemon through its ssh transport. A script plays ssh: it runs the far side's command here,
// with the test's socket in the URI.
func TestSSHHelper(t *testing.T) {
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skip("virsh is not installed (package libvirt-clients)")
	}
	b := newBed(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(b.dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, sshHelperName)); err != nil {
		t.Fatal(err)
	}
	ssh := filepath.Join(b.dir, "ssh")
	script := `#!/bin/sh
for command; do :; done
echo "$command" >>` + b.dir + `/asked
PATH=` + bin + `:$PATH
exec sh -c "$(echo "$command" | sed 's|qemu:///system|&?socket=` + b.socket + `|')"
`
	if err := os.WriteFile(ssh, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, proxy := range []string{"auto", "native"} {
		out, err := exec.Command(virsh, "-c", "qemu+ssh://far/system?proxy="+proxy+"&command="+ssh, "hostname").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "testhost" {
			asked, _ := os.ReadFile(filepath.Join(b.dir, "asked"))
			t.Errorf("proxy %s: %v %q\nasked for %s", proxy, err, out, asked)
		}
	}
	if asked, err := os.ReadFile(filepath.Join(b.dir, "asked")); err != nil || !strings.Contains(string(asked), sshHelperName) {
		t.Errorf("the client did not ask for the helper: %q, %v", asked, err)
	}
}
