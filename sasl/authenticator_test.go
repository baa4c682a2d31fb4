package sasl

import (
	"regexp"
	"strings"
	"testing"
)

// talk runs a conversation and returns what the server said in its first answer and why it ended, nil when both sides are
// content.
func talk(t *testing.T, a *Authenticator, name, password string) (first string, err error) {
	t.Helper()
	client, err := NewClient(name, password)
	if err != nil {
		t.Fatal(err)
	}
	server, err := a.Begin(Mechanism)
	if err != nil {
		t.Fatal(err)
	}
	var challenge []byte
	for step := 0; ; step++ {
		words, err := client.Step(challenge)
		if err != nil {
			t.Fatal(err)
		}
		var done bool
		if challenge, done, err = server.Step(words); err != nil {
			return first, err
		}
		if step == 0 {
			first = string(challenge)
		}
		if done {
			if _, err := client.Step(challenge); err != nil || !client.Verified() {
				t.Errorf("the client does not believe the server: %v", err)
			}
			return first, nil
		}
	}
}

func TestConversation(t *testing.T) {
	u := testUsers(t)
	for _, name := range []string{"alice", "bob@example", "eve,=x"} {
		if _, err := u.Set(name, "secret of "+name); err != nil {
			t.Fatal(err)
		}
	}
	all := NewAuthenticator(u, nil)
	some := NewAuthenticator(u, []string{"al?ce", "*@example"})
	none := NewAuthenticator(u, []string{})
	for _, tt := range []struct {
		what           string
		auth           *Authenticator
		name, password string
		ok             bool
	}{
		{"known", all, "alice", "secret of alice", true},
		{"name with separators", all, "eve,=x", "secret of eve,=x", true},
		{"wrong password", all, "alice", "secret of bob", false},
		{"unknown", all, "mallory", "secret of alice", false},
		{"of the list by ?", some, "alice", "secret of alice", true},
		{"of the list by *", some, "bob@example", "secret of bob@example", true},
		{"not of the list", some, "eve,=x", "secret of eve,=x", false},
		{"empty list", none, "alice", "secret of alice", false},
	} {
		if _, err := talk(t, tt.auth, tt.name, tt.password); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
	if _, err := u.Set("alice", "another"); err != nil {
		t.Fatal(err)
	}
	if _, err := talk(t, all, "alice", "secret of alice"); err == nil {
		t.Error("the old password is still accepted")
	}
	if _, err := talk(t, all, "alice", "another"); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if err := u.Remove("alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := talk(t, all, "alice", "another"); err == nil {
		t.Error("a removed user is still accepted")
	}
}

// TestStrangersLearnNothing: a user who does not exist has a salt as others have, the same each time, another than the next
// such user's, and the conversation goes as far as with a wrong password.
func TestStrangersLearnNothing(t *testing.T) {
	u := testUsers(t)
	if _, err := u.Set("alice", "x"); err != nil {
		t.Fatal(err)
	}
	a := NewAuthenticator(u, []string{"alice"})
	form := regexp.MustCompile(`^r=\S+,s=([A-Za-z0-9+/]{22}==),i=32768$`)
	salts := map[string]string{}
	for range 2 {
		for _, name := range []string{"alice", "nobody", "nobodi"} {
			first, err := talk(t, a, name, "wrong")
			if err == nil || err.Error() != "challenge proof invalid" {
				t.Errorf("%s: ended with %v", name, err)
			}
			m := form.FindStringSubmatch(first)
			if m == nil {
				t.Fatalf("%s: the server said %q", name, first)
			}
			if old := salts[name]; old != "" && old != m[1] {
				t.Errorf("%s: the salt changed", name)
			}
			salts[name] = m[1]
		}
	}
	if salts["nobody"] == salts["nobodi"] || salts["nobody"] == salts["alice"] {
		t.Errorf("salts are not different: %v", salts)
	}
}

func TestHostileWords(t *testing.T) {
	u := testUsers(t)
	if _, err := u.Set("alice", "x"); err != nil {
		t.Fatal(err)
	}
	a := NewAuthenticator(u, nil)
	for _, mechanism := range []string{"", "PLAIN", "ANONYMOUS", "SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "scram-sha-256"} {
		if _, err := a.Begin(mechanism); err == nil {
			t.Errorf("mechanism %q was accepted", mechanism)
		}
	}
	for _, first := range []string{"", "n", "n,,", "n,,n=alice", "p=tls-unique,,n=alice,r=x", "n,,m=1,n=alice,r=x", "n,,n==41,r=x", "x,,n=alice,r=x", strings.Repeat("n,", 5000)} {
		c, _ := a.Begin(Mechanism)
		if _, done, err := c.Step([]byte(first)); err == nil || done {
			t.Errorf("%.20q was accepted", first)
		}
		if _, done, err := c.Step([]byte("c=biws,r=x,p=AAAA")); err == nil || done {
			t.Errorf("%.20q: the conversation went on", first)
		}
	}
	for _, final := range []string{"", "c=biws", "c=biws,r=stolen,p=AAAA", "c=biws,r=,p=", "c=eSws,r=x,p=AAAA"} {
		c, _ := a.Begin(Mechanism)
		if _, _, err := c.Step([]byte("n,,n=alice,r=x")); err != nil {
			t.Fatal(err)
		}
		if _, done, err := c.Step([]byte(final)); err == nil || done {
			t.Errorf("%q was accepted", final)
		}
	}
}

// FuzzConversation: nobody gets in by words alone.
func FuzzConversation(f *testing.F) {
	u := testUsers(f)
	if _, err := u.Set("alice", "x"); err != nil {
		f.Fatal(err)
	}
	a := NewAuthenticator(u, nil)
	f.Add([]byte("n,,n=alice,r=x"), []byte("c=biws,r=x,p=AAAA"), []byte(nil))
	f.Add([]byte("y,a=root,n=alice,r=x"), []byte("c=eSws,r=x,p="), []byte("v=AAAA"))
	f.Fuzz(func(t *testing.T, one, two, three []byte) {
		c, err := a.Begin(Mechanism)
		if err != nil {
			t.Fatal(err)
		}
		for _, words := range [][]byte{one, two, three} {
			if _, done, _ := c.Step(words); done {
				t.Fatal("let in without a password")
			}
		}
	})
}
