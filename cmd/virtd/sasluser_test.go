package main

import (
	"os"
	"strings"
	"testing"
)

func TestSASLUser(t *testing.T) {
	none := t.TempDir() + "/virtd.conf"
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	place := " --session=false --config " + none + " --state-dir " + dir
	for _, tt := range []struct {
		args, stdin string
		code        int
		out, errs   string // parts
	}{
		{"list" + place, "", 0, "", ""},
		{"add fred" + place, "secret\nignored", 0, "", ""},
		{"add mary" + place, "other", 0, "", ""},
		{"list" + place, "", 0, "fred\nmary\n", ""},
		{"add fred" + place, "changed\r\n", 0, "", "user 'fred' has another password now"},
		{"add empty" + place, "\n", 1, "", "must have from 1 to 1024 bytes"},
		{"remove fred" + place, "", 0, "", ""},
		{"remove fred" + place, "", 1, "", "there is no user 'fred'"},
		{"list" + place, "", 0, "mary\n", ""},
		{"add" + place, "", 2, "", "needs the name of a user"},
		{"frob mary" + place, "", 2, "", "there is no command 'frob'"},
		{"list --bogus", "", 1, "", "bogus"},
		{"", "", 0, "Usage: virtd sasl-user add NAME", ""},
	} {
		var out, errs strings.Builder
		code := saslUser(strings.Fields(tt.args), strings.NewReader(tt.stdin), &out, &errs)
		if code != tt.code || !strings.Contains(out.String(), tt.out) || !strings.Contains(errs.String(), tt.errs) || tt.errs == "" && errs.Len() > 0 {
			t.Errorf("%s: %d %q %q", tt.args, code, out.String(), errs.String())
		}
		if strings.Contains(errs.String()+out.String(), "secret") {
			t.Errorf("%s: tells a password", tt.args)
		}
	}
	if st, err := os.Stat(dir + "/sasl"); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", st, err)
	}
}

func TestLists(t *testing.T) {
	c := systemDefaults(t)
	err := c.read(strings.NewReader(`
sasl_allowed_username_list = [ "one", # the first
   "t#o", "a\"b" # and others
]   # done
auth_tls = "sasl"
`), "f")
	if err != nil || strings.Join(c.Auth.Allowed, "|") != `one|t#o|a"b` || c.Auth.TLS != authSASL {
		t.Errorf("%q, %s, %v", c.Auth.Allowed, c.Auth.TLS, err)
	}
	if err := c.read(strings.NewReader("sasl_allowed_username_list = []"), "f"); err != nil || c.Auth.Allowed == nil || len(c.Auth.Allowed) != 0 {
		t.Errorf("an empty list: %q, %v", c.Auth.Allowed, err)
	}
	for text, want := range map[string]string{
		`sasl_allowed_username_list = "fred"`:       `f:1: sasl_allowed_username_list: 'fred' is not a list such as [ "one", "two" ]`,
		`sasl_allowed_username_list = [ fred ]`:     `f:1: sasl_allowed_username_list: 'fred' in a list is not a string in double quotes`,
		`sasl_allowed_username_list = [ "a" "b" ]`:  `f:1: sasl_allowed_username_list: a comma is missing before '"b"'`,
		"sasl_allowed_username_list = [ \"a\",\n\n": `f:2: sasl_allowed_username_list: '[ "a",' is not a list such as [ "one", "two" ]`,
		`auth_unix_rw = "polkit"`:                   "f:1: auth_unix_rw: polkit is not used here: access to the unix sockets is by unix_sock_group; use none or sasl",
		`auth_tcp = "plain"`:                        "f:1: auth_tcp: 'plain' is neither none nor sasl",
		`listen_tcp = yes`:                          "f:1: listen_tcp: 'yes' is neither 0 nor 1",
	} {
		c := systemDefaults(t)
		if err := c.read(strings.NewReader(text), "f"); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
