package main

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"virtd/release"
)

func noEnv(string) string { return "" }

func systemDefaults(t *testing.T) config {
	t.Helper()
	c, err := defaults(false, noEnv, "/root")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestReadConfig(t *testing.T) {
	c := systemDefaults(t)
	err := c.read(strings.NewReader(`
# comment
unix_sock_group = "wheel"   # who
unix_sock_rw_perms = 0770
max_clients=7
emulator = "/opt/x y/vmm"
state_dir = /srv/virtd # bare
open_foreign_firewalls = 1
low_latency = 0
`), "f")
	if err != nil {
		t.Fatal(err)
	}
	want := systemDefaults(t)
	want.SocketGroup, want.SocketMode, want.MaxClients, want.Emulator, want.StateDir = "wheel", 0o770, 7, "/opt/x y/vmm", "/srv/virtd"
	want.OpenFirewalls, want.LowLatency = true, false
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

func TestBadConfig(t *testing.T) {
	for text, want := range map[string]string{
		"nonsense":                         "f:1: want name = value",
		"\nunix_sock_grup = x":             "f:2: there is no setting 'unix_sock_grup'",
		"max_clients = 0":                  "f:1: max_clients: '0' is not a number from 1 to 1048576",
		"max_clients = many":               "f:1: max_clients: 'many' is not a number from 1 to 1048576",
		"unix_sock_rw_perms = 0999":        "f:1: unix_sock_rw_perms: '0999' is not an octal file mode such as 0770",
		"unix_sock_rw_perms = 1777":        "f:1: unix_sock_rw_perms: '1777' is not an octal file mode such as 0770",
		`unix_sock_group = "x`:             "f:1: unix_sock_group: the closing quote is missing",
		`unix_sock_group = "x" y`:          "f:1: unix_sock_group: 'y' follows the value",
		"open_foreign_firewalls = yes?":    "f:1: open_foreign_firewalls: 'yes?' is neither 0 nor 1",
		"console_log_max = -1":             "f:1: console_log_max: '-1' is not a size in bytes",
		"keepalive_interval = 99999999999": "f:1: keepalive_interval: '99999999999' is not a number from -1 to 3600",
	} {
		c := systemDefaults(t)
		if err := c.read(strings.NewReader(text), "f"); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// TestShippedConfig: the shipped file sets nothing, names every setting, and with the comments removed it is valid and sets
// the defaults.
func TestShippedConfig(t *testing.T) {
	b, err := os.ReadFile("../../packaging/virtd.conf")
	if err != nil {
		t.Fatal(err)
	}
	c := systemDefaults(t)
	if err := c.read(strings.NewReader(string(b)), "virtd.conf"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(systemDefaults(t), c); diff != "" {
		t.Errorf("the shipped file changes settings:\n%s", diff)
	}
	open := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(string(b), "$1")
	if err := c.read(strings.NewReader(open), "virtd.conf"); err != nil {
		t.Fatal(err)
	}
	want := systemDefaults(t)
	want.Emulator, want.UIDBase, want.UIDCount = "/usr/libexec/virtd/virtd-vmm", 2000000, 60000 // defaults found elsewhere
	want.Auth.Allowed = []string{"*"}                                                           // as good as none
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("the file does not show the defaults:\n%s", diff)
	}
	for name := range settings {
		if !strings.Contains(string(b), "#"+name+" = ") {
			t.Errorf("%s is not in the shipped file", name)
		}
	}
}

func TestSessionDefaults(t *testing.T) {
	env := map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}
	c, err := defaults(true, func(k string) string { return env[k] }, "/home/u")
	if err != nil {
		t.Fatal(err)
	}
	if c.SocketDir != "/run/user/7/libvirt" || c.StateDir != "/home/u/.local/share/virtd" || c.SocketMode != 0o600 || c.SocketGroup != "" {
		t.Errorf("%+v", c)
	}
	if _, err := defaults(true, noEnv, "/home/u"); err == nil {
		t.Error("a session without XDG_RUNTIME_DIR has a socket directory")
	}
}

func TestParse(t *testing.T) {
	file := t.TempDir() + "/virtd.conf"
	if err := os.WriteFile(file, []byte("unix_sock_dir = /from/file\nlog_level = warn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := parse([]string{"--session=false", "--config", file, "--socket-dir", "/from/flag", "--socket-mode", "0700"}, nil)
	if err != nil || c.SocketDir != "/from/flag" || c.LogLevel != "warn" || c.SocketMode != fs.FileMode(0o700) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range [][]string{{"--nonsense"}, {"extra"}, {"--config", "/nonexistent/x"}, {"--socket-mode", "rwx"}} {
		if _, _, err := parse(append([]string{"--session=false"}, args...), nil); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	if _, action, err := parse([]string{"--version"}, nil); err != nil || action != "version" {
		t.Errorf("%s, %v", action, err)
	}
}

// A virtd with a state directory of its own makes its default pool there, not over the host's.
func TestImagesDir(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	t.Setenv("XDG_DATA_HOME", "/data")
	none := t.TempDir() + "/virtd.conf"
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want string }{
		{"--session=false", "/var/lib/libvirt/images"},
		{"--session=false --state-dir /s", "/s/images"},
		{"--session=false --state-dir /s --images-dir /i", "/i"},
		{"--session", "/data/libvirt/images"},
		{"--session --state-dir /s", "/s/images"},
	} {
		c, _, err := parse(append([]string{"--config", none}, strings.Fields(tt.args)...), nil)
		if err != nil || c.ImagesDir != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.args, c.ImagesDir, err, tt.want)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	var out, errs strings.Builder
	if code := run([]string{"--help"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "--socket-dir DIR") || errs.Len() != 0 {
		t.Errorf("--help: %d %q %q", code, out.String(), errs.String())
	}
	out.Reset()
	if code := run([]string{"--version"}, &out, &errs); code != 0 || !strings.HasPrefix(out.String(), "virtd "+release.Version) {
		t.Errorf("--version: %d %q", code, out.String())
	}
	if code := run([]string{"--bogus"}, &out, &errs); code != 2 || !strings.Contains(errs.String(), "bogus") {
		t.Errorf("--bogus: %d %q", code, errs.String())
	}
}
