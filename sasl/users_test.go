package sasl

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func testUsers(t testing.TB) *Users {
	t.Helper()
	return NewUsers(filepath.Join(t.TempDir(), "sasl", "users"))
}

func TestUsers(t *testing.T) {
	u := testUsers(t)
	if names, err := u.List(); err != nil || len(names) != 0 {
		t.Errorf("without a file: %v, %v", names, err)
	}
	for i, name := range []string{"bob", "alice", "bob"} {
		if added, err := u.Set(name, "password "+name); err != nil || added != (i < 2) {
			t.Errorf("set %s: added %t, %v", name, added, err)
		}
	}
	if names, err := u.List(); err != nil || !slices.Equal(names, []string{"alice", "bob"}) {
		t.Errorf("got %v, %v", names, err)
	}
	st, err := os.Stat(u.Path())
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v", st.Mode(), err)
	}
	if text, _ := os.ReadFile(u.Path()); bytes.Contains(text, []byte("password")) {
		t.Error("the file holds a password")
	}
	if err := u.Remove("alice"); err != nil {
		t.Error(err)
	}
	if err := u.Remove("alice"); err == nil || !strings.Contains(err.Error(), "there is no user 'alice'") {
		t.Errorf("removed twice: %v", err)
	}
	if names, _ := u.List(); !slices.Equal(names, []string{"bob"}) {
		t.Errorf("left: %v", names)
	}
}

// TestConcurrentChanges: processes that change the file at once lose nobody's change.
func TestConcurrentChanges(t *testing.T) {
	u := testUsers(t)
	var all sync.WaitGroup
	for _, name := range strings.Fields("a b c d e f g h") {
		all.Go(func() {
			if _, err := NewUsers(u.Path()).Set(name, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if names, err := u.List(); err != nil || len(names) != 8 {
		t.Errorf("got %v, %v", names, err)
	}
}

func TestBadNamesAndPasswords(t *testing.T) {
	u := testUsers(t)
	for _, tt := range []struct{ name, password string }{
		{"", "x"}, {"two words", "x"}, {"line\nbreak", "x"}, {"nul\x00", "x"}, {strings.Repeat("n", 256), "x"}, {"bad\xff", "x"},
		{"fine", ""}, {"fine", strings.Repeat("p", 1025)}, {"fine", "bell\a"},
	} {
		if _, err := u.Set(tt.name, tt.password); err == nil {
			t.Errorf("%q with password %q was accepted", tt.name, tt.password)
		} else if strings.Contains(err.Error(), "bell") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	if _, err := os.Stat(u.Path()); err == nil {
		t.Error("a refused user made a file")
	}
}

// TestBadFiles: a file that cannot be relied on lets nobody in, is named, and is not overwritten.
func TestBadFiles(t *testing.T) {
	good := testUsers(t)
	if _, err := good.Set("alice", "x"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good.Path())
	if err != nil {
		t.Fatal(err)
	}
	edit := func(field string, value any) string {
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		m[field] = value
		b, _ := json.Marshal(m)
		return string(b)
	}
	for name, content := range map[string]string{
		"empty": "", "no JSON": "alice:x", "cut off": string(text[:len(text)/2]), "future": edit("version", 2), "weak": edit("iterations", 1),
		"slow": edit("iterations", 1<<30), "short decoy": edit("decoy", "AAAA"), "unknown": edit("more", 1),
		"short keys": edit("users", map[string]any{"alice": map[string]string{"salt": "AAAA"}}),
	} {
		u := testUsers(t)
		os.MkdirAll(filepath.Dir(u.Path()), 0o700)
		if err := os.WriteFile(u.Path(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := u.credentials("alice"); err == nil || !strings.Contains(err.Error(), u.Path()) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := u.Set("bob", "x"); err == nil {
			t.Errorf("%s: was overwritten", name)
		}
	}
	if err := os.Chmod(good.Path(), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := good.credentials("alice"); err == nil || !strings.Contains(err.Error(), "mode 0640") {
		t.Errorf("a file that others can read: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	u := testUsers(f)
	if _, err := u.Set("alice", "x"); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(u.Path())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"users":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := decode(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, name := range []string{"alice", "", "nobody"} {
			if k := got.decoy(name); len(k.Salt) != saltSize {
				t.Error("a decoy without salt")
			}
		}
	})
}
