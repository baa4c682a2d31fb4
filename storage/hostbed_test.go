package storage_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"virtd/storage"
	"virtd/storage/storagetest"
	"virtd/virterr"
)

var ctx = context.Background()

// hostBed is a manager over a made-up host.
type hostBed struct {
	t    *testing.T
	dir  string
	host *storagetest.Host
	*storage.Manager
	users map[string]string // domain by path of its disk
}

func newHostBed(t *testing.T) *hostBed {
	b := &hostBed{t: t, dir: t.TempDir(), users: map[string]string{}}
	b.host = storagetest.New(filepath.Join(b.dir, "host"))
	b.open()
	t.Cleanup(func() { b.Manager.Close() })
	return b
}

func (b *hostBed) open() {
	b.t.Helper()
	m, err := storage.Open(storage.Config{
		State: filepath.Join(b.dir, "state"), Run: filepath.Join(b.dir, "run"), Host: b.host, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	m.AskUsers(func(path string) []string {
		if name := b.users[path]; name != "" {
			return []string{name}
		}
		return nil
	})
	b.Manager = m
}

// reopen is what a restart of virtd does, after a kill as well.
func (b *hostBed) reopen() {
	b.t.Helper()
	b.Manager.Close()
	b.open()
}

// device makes a device with some data in it.
func (b *hostBed) device(name string, size int64, data string) string {
	b.t.Helper()
	path, err := b.host.Device(name, size)
	if err == nil && data != "" {
		var f *os.File
		if f, err = os.OpenFile(b.host.Path(path), os.O_WRONLY, 0); err == nil {
			_, err = f.WriteAt([]byte(data), 0)
			f.Close()
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *hostBed) define(xml string) *storage.Pool {
	b.t.Helper()
	p, err := b.Define(xml)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// again finds a pool after reopen.
func (b *hostBed) again(name string) *storage.Pool {
	b.t.Helper()
	p, err := b.LookupByName(name)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func wants(t *testing.T, err error, code virterr.Code, text string) {
	t.Helper()
	if !virterr.Is(err, code) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v (code %d), want code %d with %q", err, virterr.As(err).Code, code, text)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// ran checks which programs ran since it was called last; what lists is left out.
func (b *hostBed) ran(want ...string) {
	b.t.Helper()
	got := slices.DeleteFunc(b.host.Ran(), func(line string) bool {
		return strings.HasPrefix(line, "lvs ") || strings.HasPrefix(line, "vgs ") || strings.HasPrefix(line, "pvs ")
	})
	if !slices.Equal(got, want) {
		b.t.Errorf("ran %q, want %q", got, want)
	}
}

func (b *hostBed) mounted() []string {
	b.t.Helper()
	list, err := b.host.Mounts()
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, m := range list {
		out = append(out, m.Source+" "+m.Type+" "+filepath.Base(m.Target))
	}
	return out
}
