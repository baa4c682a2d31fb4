package secret

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"virtd/virterr"
)

const (
	volumeXML = "<secret private='no'><uuid>33333333-0000-4000-8000-000000000001</uuid><usage type='volume'><volume>/srv/a.img</volume></usage></secret>"
	cephXML   = "<secret ephemeral='yes' private='yes'><uuid>33333333-0000-4000-8000-000000000002</uuid><usage type='ceph'><name>admin</name></usage></secret>"
)

func open(t *testing.T, dir string) *Manager {
	t.Helper()
	m, err := Open(Config{State: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func define(t *testing.T, m *Manager, xml string) Definition {
	t.Helper()
	d, err := m.Define(xml)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDurable: definitions and values are there for the next virtd, in files that nobody else reads; ephemeral ones are not.
func TestDurable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	m := open(t, dir)
	kept, gone := define(t, m, volumeXML), define(t, m, cephXML)
	value := []byte("\x00binary\xff")
	for _, d := range []Definition{kept, gone} {
		if err := m.SetValue(d.UUID, value); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", e.Name(), info.Mode(), err)
		}
	}
	if want := []string{kept.UUID.String() + ".value", kept.UUID.String() + ".xml"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v, want mode 0700", info.Mode(), err)
	}
	next := open(t, dir)
	if got, err := next.Value(kept.UUID); err != nil || !bytes.Equal(got, value) {
		t.Errorf("value %q, %v, want %q", got, err, value)
	}
	if d, err := next.Lookup(kept.UUID); err != nil || d != kept {
		t.Errorf("definition %+v, %v, want %+v", d, err, kept)
	}
	if _, err := next.Lookup(gone.UUID); !virterr.Is(err, virterr.NoSecret) {
		t.Errorf("ephemeral secret: %v, want NoSecret", err)
	}
	if err := next.Undefine(kept.UUID); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("after undefine: %v, %v", entries, err)
	}
}

// TestPrivate: a client never gets a private secret's value, and cannot make the secret public.
func TestPrivate(t *testing.T) {
	m := open(t, t.TempDir())
	d := define(t, m, cephXML)
	if err := m.SetValue(d.UUID, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Reveal(d.UUID); !virterr.Is(err, virterr.InvalidSecret) {
		t.Errorf("reveal: %v, want InvalidSecret", err)
	}
	if _, err := m.Define(strings.Replace(cephXML, "private='yes'", "private='no'", 1)); err == nil {
		t.Error("a private secret became public")
	}
	if got, err := m.Value(d.UUID); err != nil || string(got) != "x" {
		t.Errorf("virtd itself got %q, %v", got, err)
	}
}

// TestEphemeralToDurable: a secret that becomes durable takes its value along, and loses its files the other way.
func TestEphemeralToDurable(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	d := define(t, m, cephXML)
	if err := m.SetValue(d.UUID, []byte("x")); err != nil {
		t.Fatal(err)
	}
	define(t, m, strings.Replace(cephXML, "ephemeral='yes'", "ephemeral='no'", 1))
	if got, err := open(t, dir).Value(d.UUID); err != nil || string(got) != "x" {
		t.Errorf("durable: %q, %v", got, err)
	}
	define(t, m, cephXML)
	if got, err := m.Value(d.UUID); err != nil || string(got) != "x" {
		t.Errorf("ephemeral again: %q, %v", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("files of an ephemeral secret: %v, %v", entries, err)
	}
}

// TestForeignFiles: files that are no secrets are left alone and keep nobody from starting; what a power cut left is overwritten.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	id := "33333333-0000-4000-8000-000000000001"
	for name, text := range map[string]string{
		"broken.xml": "<secret", uuid.NewString() + ".xml": volumeXML, ".new-" + id + ".xml": "half", "readme": "hello", id + ".value": "left",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := open(t, dir)
	if list := m.List(); len(list) > 0 {
		t.Errorf("found %v", list)
	}
	define(t, m, volumeXML)
	if entries, _ := os.ReadDir(dir); len(entries) != 5 {
		t.Errorf("%d files, want the 4 others and the new one", len(entries))
	}
}

func TestEvents(t *testing.T) {
	m := open(t, t.TempDir())
	var got []EventKind
	cancel := m.Subscribe(func(e Event) { got = append(got, e.Kind) })
	d := define(t, m, volumeXML)
	if err := m.SetValue(d.UUID, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Undefine(d.UUID); err != nil {
		t.Fatal(err)
	}
	cancel()
	define(t, m, volumeXML)
	if want := []EventKind{EventDefined, EventValueChanged, EventUndefined}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

func TestTooLong(t *testing.T) {
	m := open(t, t.TempDir())
	d := define(t, m, volumeXML)
	if err := m.SetValue(d.UUID, make([]byte, MaxValue)); err != nil {
		t.Errorf("%d bytes: %v", MaxValue, err)
	}
	if err := m.SetValue(d.UUID, make([]byte, MaxValue+1)); !virterr.Is(err, virterr.InvalidArg) {
		t.Errorf("%d bytes: %v, want InvalidArg", MaxValue+1, err)
	}
}

// FuzzParse: every document is refused, or is read back as it was printed.
func FuzzParse(f *testing.F) {
	f.Add(volumeXML)
	f.Add(cephXML)
	f.Add("<secret><description> a &amp; b </description><usage type='none'/></secret>")
	f.Add("<secret ephemeral='maybe'/>")
	f.Add("<secret><usage type='tls'><name> </name></usage></secret>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(d.XML())
		if err != nil {
			t.Fatalf("refuses its own document: %v\n%s", err, d.XML())
		}
		if again != d {
			t.Errorf("read %+v, printed and read %+v", d, again)
		}
	})
}
