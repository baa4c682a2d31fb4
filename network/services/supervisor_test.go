package services

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// shellSupervisor starts a shell's script in place of children.
func shellSupervisor(t *testing.T, script string) *Supervisor {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "svc") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := NewSupervisor(Options{
		Program: "/bin/sh", Args: []string{"-c", script}, Log: slog.New(slog.DiscardHandler),
		Run: filepath.Join(dir, "run"), Leases: filepath.Join(dir, "leases"), Logs: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestUnconfiguredChildEnds: a child is told nothing until it is on record, and does not outlive a virtd that was killed before.
func TestUnconfiguredChildEnds(t *testing.T) {
	s := shellSupervisor(t, "read config <&3 || exit; exec sleep 60")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p := &process{record: record{UID: -1, Config: Config{UUID: uuid.New(), Name: "n"}}}
	config, err := s.spawn(p, null, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.proc.End()
	config.Close() // as the kernel does for who is killed
	select {
	case <-p.proc.Done():
	case <-time.After(30 * time.Second):
		t.Error("the child is still there")
	}
}

// TestChildThatEndsAtOnce is noticed by its end, not by a time that is up.
func TestChildThatEndsAtOnce(t *testing.T) {
	s := shellSupervisor(t, "read config <&3; exit 3")
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.start(Config{UUID: uuid.New(), Name: "n"}, nil)
	if err == nil || !strings.Contains(err.Error(), "Unable to start the services of network 'n'") || strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v", err)
	}
}

// After a restart of virtd a new child must not get the uid of one that was not asked for yet.
func TestUIDOfUnadoptedChild(t *testing.T) {
	dir := t.TempDir()
	s, err := NewSupervisor(Options{Run: filepath.Join(dir, "run"), Leases: filepath.Join(dir, "leases"), Logs: filepath.Join(dir, "logs"), UIDBase: 5000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := &process{record: record{PID: 4242, UID: 5000, Config: Config{UUID: uuid.New()}}}
	if err := os.Mkdir(s.dir(p.Config.UUID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.save(p); err != nil {
		t.Fatal(err)
	}
	want := -1
	if os.Geteuid() == 0 {
		want = 5001
	}
	if got := s.freeUID(); got != want {
		t.Errorf("uid %d, want %d", got, want)
	}
}
