package storage

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"virtd/virterr"
)

// bed is a manager over directories of its own.
type bed struct {
	t   *testing.T
	dir string
	*Manager
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, dir: t.TempDir()}
	b.open()
	t.Cleanup(func() { b.Manager.Close() })
	return b
}

func (b *bed) open() {
	b.t.Helper()
	m, err := Open(Config{State: filepath.Join(b.dir, "state"), Run: filepath.Join(b.dir, "run"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Manager = m
}

// reopen is what a restart of virtd does.
func (b *bed) reopen() {
	b.t.Helper()
	b.Manager.Close()
	b.open()
}

func (b *bed) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bed) xml(name, dir string) string {
	return "<pool type='dir'><name>" + name + "</name><target><path>" + b.path(dir) + "</path></target></pool>"
}

// pool returns a started pool.
func (b *bed) pool(name string) *Pool {
	b.t.Helper()
	p, err := b.Define(b.xml(name, name))
	if err == nil {
		err = p.Start(BuildAtStart)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func volumeXML(name string, capacity, allocation string) string {
	x := "<volume><name>" + name + "</name><capacity>" + capacity + "</capacity>"
	if allocation != "" {
		x += "<allocation>" + allocation + "</allocation>"
	}
	return x + "</volume>"
}

// wants checks an error's code and text.
func wants(t *testing.T, err error, code virterr.Code, text string) {
	t.Helper()
	if !virterr.Is(err, code) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v (code %d), want code %d with %q", err, virterr.As(err).Code, code, text)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestPoolLifecycle(t *testing.T) {
	b := newBed(t)
	var mu sync.Mutex
	var events []Event
	defer b.Subscribe(func(e Event) { mu.Lock(); events = append(events, e); mu.Unlock() })()
	p := must[*Pool](t)(b.Define(b.xml("a", "deep/a")))
	if p.Active() || !p.Persistent() || p.Autostart() {
		t.Error("a defined pool is not at rest")
	}
	wants(t, p.Start(0), virterr.SystemError, "cannot open directory '"+b.path("deep/a")+"': No such file or directory")
	wants(t, p.Stop(), virterr.OperationInvalid, "storage pool 'a' is not active")
	ok(t, p.Build(0))
	if st, err := os.Stat(b.path("deep/a")); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("built: %v %v", st, err)
	}
	ok(t, p.Start(0))
	wants(t, p.Start(0), virterr.OperationInvalid, "storage pool 'a' is already active")
	wants(t, p.Build(0), virterr.OperationInvalid, "storage pool 'a' is already active")
	wants(t, p.Delete(), virterr.OperationInvalid, "storage pool 'a' is still active")
	wants(t, p.Undefine(), virterr.OperationInvalid, "storage pool 'a' is still active")
	if i, err := p.Info(); err != nil || !i.Active || i.Capacity == 0 || i.Capacity != i.Allocation+i.Available {
		t.Errorf("info %+v %v", i, err)
	}
	ok(t, p.Refresh())
	ok(t, p.SetAutostart(true))
	if err := os.WriteFile(b.path("deep/a/f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, p.Stop())
	wants(t, p.Delete(), virterr.SystemError, "failed to remove pool '"+b.path("deep/a")+"': Directory not empty")
	ok(t, os.Remove(b.path("deep/a/f")))
	ok(t, p.Delete())
	ok(t, p.Undefine())
	wants(t, p.Start(0), virterr.NoStoragePool, "no storage pool with matching uuid")
	b.Manager.Close() // delivers what is queued
	var got []Lifecycle
	for _, e := range events {
		if e.Name != "a" || e.UUID != p.UUID() {
			t.Errorf("event of another pool: %+v", e)
		}
		if e.Kind == EventLifecycle {
			got = append(got, e.Type)
		} else {
			got = append(got, -1)
		}
	}
	want := []Lifecycle{Defined, Created, Started, -1, Stopped, Deleted, Undefined}
	if len(got) != len(want) {
		t.Fatalf("events %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("events %v, want %v", got, want)
		}
	}
	if left, err := os.ReadDir(b.path("state")); err != nil || len(left) != 0 {
		t.Errorf("files of a pool that is gone: %v %v", left, err)
	}
	b.open()
}

func TestPoolsThatClash(t *testing.T) {
	b := newBed(t)
	p := b.pool("a")
	with := func(name, dir string, id uuid.UUID) error {
		_, err := b.Define(strings.Replace(b.xml(name, dir), "<target>", "<uuid>"+id.String()+"</uuid><target>", 1))
		return err
	}
	wants(t, with("a", "x", uuid.New()), virterr.OperationFailed, "pool 'a' already exists with uuid "+p.UUID().String())
	wants(t, with("b", "x", p.UUID()), virterr.OperationFailed, "pool 'a' is already defined with uuid "+p.UUID().String())
	wants(t, with("b", "a", uuid.New()), virterr.OperationFailed, "Storage source conflict with pool: 'a'")
	wants(t, with("b", "x/../a/", uuid.New()), virterr.OperationFailed, "Storage source conflict with pool: 'a'")
	_, err := b.Create(strings.Replace(b.xml("a", "a"), "<target>", "<uuid>"+p.UUID().String()+"</uuid><target>", 1), 0)
	wants(t, err, virterr.OperationInvalid, "pool is already active as 'a'")
	_, err = b.Create(b.xml("c", "c"), BuildAtStart|BuildOverwrite|BuildNoOverwrite)
	wants(t, err, virterr.InvalidArg, "mutually exclusive")
	_, err = b.Create(b.xml("c", "c"), 0)
	wants(t, err, virterr.SystemError, "cannot open directory")
	if n := len(b.List(0)); n != 1 {
		t.Errorf("%d pools are left of those that were refused", n-1)
	}
}

// A changed definition of an active pool waits for its next start.
func TestRedefineActivePool(t *testing.T) {
	b := newBed(t)
	p := b.pool("a")
	text := strings.Replace(b.xml("a", "elsewhere"), "<target>", "<uuid>"+p.UUID().String()+"</uuid><target>", 1)
	if q := must[*Pool](t)(b.Define(text)); q != p {
		t.Error("another pool")
	}
	now, later := must[string](t)(p.XML(false)), must[string](t)(p.XML(true))
	if !strings.Contains(now, b.path("a")+"</path>") || !strings.Contains(later, b.path("elsewhere")+"</path>") {
		t.Errorf("now %s\nlater %s", now, later)
	}
	b.reopen()
	p = must[*Pool](t)(b.LookupByName("a"))
	if got := must[string](t)(p.XML(true)); got != later || !p.Active() {
		t.Errorf("after a restart: active %v, %s", p.Active(), got)
	}
	ok(t, p.Stop())
	ok(t, p.Start(BuildAtStart))
	if got := must[string](t)(p.XML(false)); !strings.Contains(got, b.path("elsewhere")+"</path>") {
		t.Errorf("after its start: %s", got)
	}
}

// A restart of virtd loses nothing; a boot of the host loses what is not persistent, and starts what is marked.
func TestRestartAndBoot(t *testing.T) {
	b := newBed(t)
	ok(t, b.pool("auto").SetAutostart(true))
	b.pool("manual")
	ok(t, os.Mkdir(b.path("passing"), 0o700))
	must[*Pool](t)(b.Create(b.xml("passing", "passing"), 0))
	wants(t, must[*Pool](t)(b.LookupByName("passing")).SetAutostart(true), virterr.InvalidArg, "pool has no config file")
	b.Autostart()
	active := func() string {
		var names []string
		for _, p := range b.List(ListActive) {
			names = append(names, p.Name())
		}
		return strings.Join(names, " ")
	}
	b.reopen()
	b.Autostart()
	if got := active(); got != "auto manual passing" {
		t.Errorf("after a restart: %s", got)
	}
	ok(t, must[*Pool](t)(b.LookupByName("auto")).Stop())
	b.reopen()
	b.Autostart()
	if got := active(); got != "manual passing" {
		t.Errorf("who stopped a pool gets it back at a restart: %s", got)
	}
	ok(t, os.RemoveAll(b.path("run"))) // as a boot does
	b.reopen()
	b.Autostart()
	if got := active(); got != "auto" || len(b.List(0)) != 2 {
		t.Errorf("after a boot: %s of %d", got, len(b.List(0)))
	}
	for _, f := range []struct {
		flags ListFlags
		want  int
	}{{0, 2}, {ListActive, 1}, {ListInactive, 1}, {ListActive | ListInactive, 2}, {ListAutostart, 1}, {ListNoAutostart, 1},
		{ListTransient, 0}, {ListPersistent, 2}, {ListDir, 2}, {1 << 7, 0}, {1<<7 | ListDir | ListActive, 1}} {
		if got := len(b.List(f.flags)); got != f.want {
			t.Errorf("list with %#x: %d, want %d", f.flags, got, f.want)
		}
	}
}

func TestDefaultPool(t *testing.T) {
	b := newBed(t)
	ok(t, b.EnsureDefault(b.path("images")))
	p := must[*Pool](t)(b.LookupByName("default"))
	if !p.Active() || !p.Autostart() || !p.Persistent() {
		t.Error("the default pool is not ready")
	}
	ok(t, p.Stop())
	ok(t, p.Undefine())
	b.reopen()
	ok(t, b.EnsureDefault(b.path("images")))
	if _, err := b.LookupByName("default"); err == nil {
		t.Error("the default pool came back after it was undefined")
	}
	other := newBed(t)
	other.pool("images")
	ok(t, other.EnsureDefault(other.path("images")))
	if _, err := other.LookupByName("default"); err == nil {
		t.Error("two pools over one directory")
	}
}

// A file that makes no sense is left where it is, and the others are read.
func TestDamagedFile(t *testing.T) {
	b := newBed(t)
	b.pool("a")
	bad := filepath.Join(b.path("state"), uuid.NewString()+".xml")
	for _, text := range []string{"", "<pool", b.xml("other", "other")} {
		ok(t, os.WriteFile(bad, []byte(text), 0o600))
		b.reopen()
		if got, err := os.ReadFile(bad); err != nil || string(got) != text || len(b.List(0)) != 1 {
			t.Errorf("%q: %q %v, %d pools", text, got, err, len(b.List(0)))
		}
	}
}

func TestPoolOverAFile(t *testing.T) {
	b := newBed(t)
	ok(t, os.WriteFile(b.path("f"), nil, 0o600))
	p := must[*Pool](t)(b.Define(b.xml("f", "f")))
	wants(t, p.Build(0), virterr.SystemError, "Not a directory")
	wants(t, p.Start(0), virterr.SystemError, "Not a directory")
	wants(t, p.Delete(), virterr.SystemError, "Not a directory")
}

// While one pool's directory does not answer, everybody else is answered.
func TestStuckPool(t *testing.T) {
	b := newBed(t)
	p, q := b.pool("stuck"), b.pool("fine")
	p.job.Lock() // as a call is that waits for a dead mount
	defer p.job.Unlock()
	ok(t, p.Stop())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if n := len(b.List(0)); n != 2 {
			t.Errorf("%d pools", n)
		}
		ok(t, q.Stop())
		ok(t, q.Start(0))
		must[string](t)(p.XML(false))
		must[Info](t)(p.Info())
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the others wait too")
	}
}

// Clients at once: one wins, and the records are whole.
func TestRaces(t *testing.T) {
	b := newBed(t)
	ok(t, os.Mkdir(b.path("a"), 0o700))
	var started, created atomic.Int32
	var all sync.WaitGroup
	p := must[*Pool](t)(b.Define(b.xml("a", "a")))
	for range 8 {
		all.Go(func() {
			if p.Start(0) == nil {
				started.Add(1)
			}
		})
	}
	all.Wait()
	for range 8 {
		all.Go(func() {
			if _, err := p.CreateVolume(ctx, volumeXML("v", "4096", ""), 0); err == nil {
				created.Add(1)
			} else if !virterr.Is(err, virterr.StorageVolExist) {
				t.Error(err)
			}
		})
		all.Go(func() { b.List(0); _, _ = p.Volumes() })
	}
	all.Wait()
	if started.Load() != 1 || created.Load() != 1 {
		t.Errorf("%d starts and %d creations of one thing", started.Load(), created.Load())
	}
	ok(t, p.Stop())
	for range 8 {
		all.Go(func() { _, _ = b.Create(b.xml("new", "a"), 0) })
		all.Go(func() { _ = p.Undefine() })
	}
	all.Wait()
	names := len(b.List(0))
	b.reopen()
	if names > 1 || len(b.List(0)) != names {
		t.Errorf("%d pools, %d after a restart", names, len(b.List(0)))
	}
}

func TestBuildPermissions(t *testing.T) {
	b := newBed(t)
	text := strings.Replace(b.xml("a", "a"), "</path>", "</path><permissions><mode>02750</mode></permissions>", 1)
	p := must[*Pool](t)(b.Define(text))
	ok(t, p.Build(0))
	if st, err := os.Stat(b.path("a")); err != nil || st.Mode() != os.ModeDir|os.ModeSetgid|0o750 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	ok(t, p.Start(0))
	if got := must[string](t)(p.XML(false)); !strings.Contains(got, "<mode>02750</mode>") {
		t.Error(got)
	}
}

func bytesOf(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
