package definitions_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"virtd/durable/definitions"
	"virtd/virterr"
)

// thing is a definition: its UUID and its name, with a space between.
type thing struct {
	id   uuid.UUID
	name string
}

var kind = definitions.Kind[thing]{
	Name: "thing", From: virterr.FromStorage,
	Parse: func(text string) (thing, error) {
		id, name, ok := strings.Cut(text, " ")
		if !ok {
			return thing{}, errors.New("no thing")
		}
		parsed, err := uuid.Parse(id)
		return thing{parsed, name}, err
	},
	XML:      func(d thing) string { return d.id.String() + " " + d.name },
	Identity: func(d thing) (uuid.UUID, string) { return d.id, d.name },
	MaxSize:  1000,
}

func open(t *testing.T, dir string) *definitions.Store[thing] {
	t.Helper()
	s, err := definitions.Open(kind, filepath.Join(dir, "state"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names lists what a directory's definitions are called, which must all be readable.
func names(t *testing.T, list []thing, problems []definitions.Problem, err error) string {
	t.Helper()
	if err != nil || len(problems) != 0 {
		t.Fatalf("%v, %v", problems, err)
	}
	var out []string
	for _, d := range list {
		out = append(out, d.name)
	}
	return strings.Join(out, " ")
}

// Each step is seen by a store that is opened after it.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	a := thing{uuid.MustParse("00000000-0000-0000-0000-00000000000a"), "a"}
	b := thing{uuid.MustParse("00000000-0000-0000-0000-00000000000b"), "b"}
	renamed := thing{b.id, "c"}
	for _, step := range []struct {
		what            string
		do              func(s *definitions.Store[thing]) error
		defined, active string
		autostart       bool // of b
	}{
		{"nothing", func(*definitions.Store[thing]) error { return nil }, "", "", false},
		{"save a", func(s *definitions.Store[thing]) error { return s.Save(a) }, "a", "", false},
		{"save b", func(s *definitions.Store[thing]) error { return s.Save(b) }, "a b", "", false},
		{"autostart b", func(s *definitions.Store[thing]) error { return s.SetAutostart(b.id, true) }, "a b", "", true},
		{"activate b", func(s *definitions.Store[thing]) error { return s.SetActive(b) }, "a b", "b", true},
		{"change b", func(s *definitions.Store[thing]) error { return s.Save(renamed) }, "a c", "b", true},
		{"no autostart", func(s *definitions.Store[thing]) error { return s.SetAutostart(b.id, false) }, "a c", "b", false},
		{"autostart again", func(s *definitions.Store[thing]) error { return s.SetAutostart(b.id, true) }, "a c", "b", true},
		{"forget b", func(s *definitions.Store[thing]) error { return s.Forget(b.id) }, "a", "b", false},
		{"stop b", func(s *definitions.Store[thing]) error { return s.SetInactive(b.id) }, "a", "", false},
		{"forget b again", func(s *definitions.Store[thing]) error { return s.Forget(b.id) }, "a", "", false},
	} {
		if err := step.do(open(t, dir)); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		s := open(t, dir)
		list, problems, err := s.Defined()
		if got := names(t, list, problems, err); got != step.defined {
			t.Errorf("%s: %q defined, want %q", step.what, got, step.defined)
		}
		list, problems, err = s.Active()
		if got := names(t, list, problems, err); got != step.active {
			t.Errorf("%s: %q active, want %q", step.what, got, step.active)
		}
		if got := s.Autostart(b.id); got != step.autostart {
			t.Errorf("%s: autostart %v", step.what, got)
		}
	}
}

// The marks are no definitions. That of a boot goes with the run directory, that of the default object stays.
func TestMarks(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if made, err := s.DefaultMade(); made || err != nil || s.Autostarted() {
		t.Fatalf("at first: %v, %v, %v", made, err, s.Autostarted())
	}
	if err := errors.Join(s.NoteDefaultMade(), s.NoteAutostarted()); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if made, err := s.DefaultMade(); !made || err != nil || !s.Autostarted() {
		t.Errorf("afterwards: %v, %v, %v", made, err, s.Autostarted())
	}
	list, problems, err := s.Defined()
	if got := names(t, list, problems, err); got != "" {
		t.Errorf("%q defined", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "run")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if made, err := s.DefaultMade(); !made || err != nil || s.Autostarted() {
		t.Errorf("after a boot: %v, %v, %v", made, err, s.Autostarted())
	}
}

// What cannot be understood is named and left alone, and hides nothing else.
func TestProblems(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	good := thing{uuid.New(), "good"}
	if err := s.Save(good); err != nil {
		t.Fatal(err)
	}
	other := uuid.New()
	files := map[string]string{
		"garbage.xml":           "garbage",
		other.String() + ".xml": good.id.String() + " good", // another's UUID
		".new-x.xml":            "half a file that was being written",
		"README":                "not ours",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, "state", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, problems, err := s.Defined()
	if err != nil || len(list) != 1 || list[0] != good {
		t.Errorf("%v, %v", list, err)
	}
	said := map[string]string{}
	for _, p := range problems {
		said[filepath.Base(p.Path)] = p.Err.Error()
	}
	if len(said) != 2 || said["garbage.xml"] != "no thing" ||
		said[other.String()+".xml"] != "holds thing 'good' with another UUID, "+good.id.String() {
		t.Errorf("problems: %v", said)
	}
	for name, text := range files {
		if got, err := os.ReadFile(filepath.Join(dir, "state", name)); err != nil || string(got) != text {
			t.Errorf("%s was changed: %q, %v", name, got, err)
		}
	}
}

func TestFailuresAreSystemErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := definitions.Open(kind, filepath.Join(file, "state"), dir)
	if want := "cannot create directory '" + file + "/state': Not a directory"; !virterr.Is(err, virterr.SystemError) || err.Error() != want {
		t.Errorf("Open: %v; want %s", err, want)
	}
	s := open(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(thing{uuid.New(), "lost"}); !virterr.Is(err, virterr.SystemError) {
		t.Errorf("Save: %v", err)
	}
	if _, _, err := s.Defined(); !virterr.Is(err, virterr.SystemError) {
		t.Errorf("Defined: %v", err)
	}
}
