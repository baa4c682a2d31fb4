package kvm

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"virtd/driver"
	"virtd/driver/kvm/qmp"
)

// FuzzExitRecord reads what a hostile engine may leave behind.
func FuzzExitRecord(f *testing.F) {
	f.Add([]byte(`{"reason":"shutdown","detail":"x","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"reason":"killed"}`))
	f.Add([]byte(`{"reason":"quit","detail":"` + strings.Repeat("\x1b[2J", 2000) + `"}`))
	f.Add([]byte{})
	path := filepath.Join(f.TempDir(), exitFile)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		e, ok := readExitRecord(path)
		if !ok {
			return
		}
		switch e.Reason {
		case driver.ExitShutdown, driver.ExitReboot, driver.ExitPanic, driver.ExitQuit, driver.ExitError:
		default:
			t.Fatalf("an engine may not say %q: that is virtd's finding", e.Reason)
		}
		if utf8.RuneCountInString(e.Detail) > 1000 || strings.ContainsAny(e.Detail, "\n\r\x1b\x00") {
			t.Fatalf("%q", e.Detail)
		}
	})
}

// FuzzEvent passes what a hostile engine may say to the translation of events.
func FuzzEvent(f *testing.F) {
	for _, name := range []string{"STOP", "SHUTDOWN", "BALLOON_CHANGE", "BLOCK_IO_ERROR", "GUEST_PANICKED", "", "X"} {
		f.Add(name, []byte(`{"guest":true,"reason":"x","action":"y","actual":7,"device":"z","operation":"write"}`))
	}
	f.Add("BALLOON_CHANGE", []byte(`{"actual":-1}`))
	f.Add("STOP", []byte(`[]`))
	i := &instance{d: &Driver{log: slog.New(slog.DiscardHandler)}, name: "fuzz"}
	last := driver.Event(nil)
	i.Listen(func(e driver.Event) { last = e })
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		last = nil
		i.event(qmp.Event{Name: name, Data: data})
		if m, ok := last.(driver.MonitorEvent); last != nil && (!ok || m.Name != name) {
			t.Fatalf("%#v", last)
		}
	})
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a\nb\r\n": "a b", "\x1b[31mred": "?[31mred", "\xff": "\ufffd", strings.Repeat("x", 5000): strings.Repeat("x", 1000),
	} {
		if got := printable(in); got != want {
			t.Errorf("%.40q: %.40q", in, got)
		}
	}
}

// A record of a status file decides what is opened, removed and killed: nonsense is refused.
func TestRecordsThatMakeNoSense(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `[]`, `{"version":1,"pid":1,"dir":"/x"}`, `{"version":1,"pid":-5,"dir":"/x"}`, `{"version":99,"pid":500,"dir":"/x"}`, `{"version":1,"pid":500}`,
	} {
		if r, err := decodeRecord([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, r)
		}
	}
}
