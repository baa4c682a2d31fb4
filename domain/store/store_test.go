package store

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"virtd/domain"
	"virtd/virterr"
)

func define(t testing.TB, name string, id int, mib int) *domain.Definition {
	t.Helper()
	def, err := domain.Parse(fmt.Sprintf(`<domain type='kvm'><name>%s</name><uuid>00000000-0000-4000-8000-%012d</uuid>
		<memory unit='MiB'>%d</memory><os><type machine='q35'>hvm</type></os></domain>`, name, id, mib), domain.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return def
}

func openDir(t *testing.T) (*Dir, Options) {
	t.Helper()
	o := Options{State: filepath.Join(t.TempDir(), "state"), Run: filepath.Join(t.TempDir(), "run")}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return d, o
}

func TestSaveLoadDelete(t *testing.T) {
	d, o := openDir(t)
	a, b := define(t, "a", 1, 64), define(t, "b", 2, 128)
	for _, def := range []*domain.Definition{b, a} {
		if err := d.Save(def); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SetAutostart(a.UUID(), true); err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{UUID: a.UUID(), Name: "a", Autostart: true, Memory: 64 << 10, CurrentMemory: 64 << 10, VCPUs: 1, CurrentVCPUs: 1},
		{UUID: b.UUID(), Name: "b", Memory: 128 << 10, CurrentMemory: 128 << 10, VCPUs: 1, CurrentVCPUs: 1},
	}
	for range 2 { // the second time as the next virtd finds it
		if diff := cmp.Diff(want, d.Entries()); diff != "" {
			t.Error(diff)
		}
		got, err := d.Load(a.UUID())
		if err != nil || got.XML(0) != a.XML(0) {
			t.Errorf("%v: %s", err, got.XML(0))
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d, err = Open(o); err != nil || len(d.Problems()) != 0 {
			t.Fatal(err, d.Problems())
		}
	}
	if err := d.Delete(a.UUID()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(a.UUID()); !virterr.Is(err, virterr.NoDomain) {
		t.Errorf("got %v", err)
	}
	if err := d.Delete(a.UUID()); !virterr.Is(err, virterr.NoDomain) {
		t.Errorf("got %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(o.State); len(files) != 1 {
		t.Errorf("left %v", files)
	}
}

func TestRename(t *testing.T) {
	d, _ := openDir(t)
	a, b := define(t, "a", 1, 64), define(t, "b", 2, 64)
	if err := errors.Join(d.Save(a), d.Save(b)); err != nil {
		t.Fatal(err)
	}
	clash, _ := a.SetName("b")
	if err := d.Save(clash); !virterr.Is(err, virterr.OperationFailed) || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("got %v", err)
	}
	renamed, _ := a.SetName("c")
	if err := d.Save(renamed); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.ByName("a"); ok {
		t.Error("old name still there")
	}
	if e, ok := d.ByName("c"); !ok || e.UUID != a.UUID() {
		t.Error("new name missing")
	}
}

// Files that are not ours, or not whole, are reported and stay.
func TestForeignFiles(t *testing.T) {
	d, o := openDir(t)
	good := define(t, "good", 1, 64)
	twin := define(t, "good", 5, 64)
	if err := errors.Join(d.Save(good), d.Close()); err != nil {
		t.Fatal(err)
	}
	id := func(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }
	files := map[string]string{
		"demo.xml":                         good.XML(0),
		id(2) + ".xml":                     good.XML(0)[:200],
		id(3) + ".xml":                     "",
		id(4) + ".xml":                     good.XML(0),
		id(5) + ".xml":                     twin.XML(0),
		"notes.txt":                        "keep me",
		".swp":                             "",
		".mine.xml.1.tmp":                  "not ours",
		"." + id(1) + ".xml.7.tmp":         "half",
		"." + id(1) + ".autostart.8.tmp":   "",
		id(1) + ".autostart":               "",
		strings.ToUpper("a"+id(1)) + ".xm": "",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(o.State, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(o.State, id(6)+".xml"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if e := d.Entries(); len(e) != 1 || e[0].Name != "good" || !e[0].Autostart {
		t.Errorf("entries %+v", e)
	}
	var got []string
	for _, p := range d.Problems() {
		got = append(got, filepath.Base(p.Path))
	}
	want := []string{id(2) + ".xml", id(3) + ".xml", id(4) + ".xml", id(5) + ".xml", id(6) + ".xml", "demo.xml"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name := range files {
		_, err := os.Stat(filepath.Join(o.State, name))
		if gone := strings.HasPrefix(name, "."+id(1)); gone != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStatus(t *testing.T) {
	d, o := openDir(t)
	a := define(t, "a", 1, 64)
	s := Status{UUID: a.UUID(), ID: 3, BootID: "b", PID: 5, StartTime: 7, LiveXML: a.XML(0), Driver: []byte(`{"x":1}`)}
	if err := d.SaveStatus(s); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		uuid.NewString() + ".json": `{"version":1`, uuid.NewString() + ".json ": "", "x.json": "{}",
		define(t, "f", 9, 1).UUID().String() + ".json": `{"version":99,"uuid":"00000000-0000-4000-8000-000000000009"}`,
	} {
		if err := os.WriteFile(filepath.Join(o.Run, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, problems := d.Statuses()
	if len(got) != 1 || len(problems) != 3 {
		t.Fatalf("%v %v", got, problems)
	}
	got[0].Driver = []byte(strings.ReplaceAll(strings.ReplaceAll(string(got[0].Driver), "\n", ""), " ", ""))
	s.Version = StatusVersion
	if diff := cmp.Diff(s, got[0]); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(d.DeleteStatus(a.UUID()), d.DeleteStatus(a.UUID())); err != nil {
		t.Error(err)
	}
}

// acked is what a client was told; a change under way may or may not have happened.
type acked struct {
	xml       map[uuid.UUID]string
	autostart map[uuid.UUID]bool
}

// script runs the same changes every time and stops at the first error. before and after tell the state before and after
// the change under way.
func script(t *testing.T, d *Dir) (before, after acked, finished bool) {
	state := acked{map[uuid.UUID]string{}, map[uuid.UUID]bool{}}
	snapshot := func() acked {
		c := acked{map[uuid.UUID]string{}, map[uuid.UUID]bool{}}
		for k, v := range state.xml {
			c.xml[k] = v
		}
		for k, v := range state.autostart {
			c.autostart[k] = v
		}
		return c
	}
	d.firstRoom = blockSize // so that journals grow
	a, b := define(t, "a", 1, 64), define(t, "b", 2, 64)
	bigger, _ := a.SetMaxMemory(512 << 10)
	renamed, _ := bigger.SetName("c")
	save := func(def *domain.Definition) func() error {
		return func() error { state.xml[def.UUID()] = def.XML(0); return d.Save(def) }
	}
	mark := func(def *domain.Definition, on bool) func() error {
		return func() error {
			delete(state.autostart, def.UUID())
			if on {
				state.autostart[def.UUID()] = true
			}
			return d.SetAutostart(def.UUID(), on)
		}
	}
	remove := func(def *domain.Definition) func() error {
		return func() error {
			delete(state.xml, def.UUID())
			delete(state.autostart, def.UUID())
			return d.Delete(def.UUID())
		}
	}
	prepare := func() error { d.prepare(); return nil }
	for _, change := range []func() error{
		save(a), save(b), mark(a, true), d.settle, save(bigger), mark(b, true), save(renamed), mark(b, false), mark(b, true),
		remove(b), save(b), d.settle, prepare, save(bigger), remove(b), save(bigger), prepare, d.settle, remove(a), d.settle,
		prepare, save(a), save(b), prepare, save(a), d.settle, prepare, save(b), save(a), save(b), d.Close,
	} {
		before = snapshot()
		err := change()
		after = snapshot()
		if err != nil {
			return before, after, false
		}
	}
	return after, after, true
}

// check opens what is left and compares: each domain is as it was acknowledged, or as the change under way made it, whole.
func check(t *testing.T, fs *memFS, before, after acked) {
	t.Helper()
	d, err := open(Options{State: "/s", Run: "/r"}, fs)
	if err != nil {
		t.Fatal(err)
	}
	if p := d.Problems(); len(p) != 0 {
		t.Fatalf("problems %v; files %s", p, fs.list())
	}
	ids := map[uuid.UUID]bool{}
	for _, m := range []map[uuid.UUID]string{before.xml, after.xml} {
		for id := range m {
			ids[id] = true
		}
	}
	for id := range ids {
		text := ""
		if def, err := d.Load(id); err == nil {
			text = def.XML(0)
		}
		if text != before.xml[id] && text != after.xml[id] {
			t.Errorf("domain %s is neither as before nor as after: %q", id, text)
		}
		e, _ := d.Entry(id)
		if e.Autostart != before.autostart[id] && e.Autostart != after.autostart[id] {
			t.Errorf("autostart of %s is %v", id, e.Autostart)
		}
	}
	if len(d.Entries()) > len(ids) {
		t.Errorf("unknown entries %v", d.Entries())
	}
}

// Power fails, or virtd is killed, before every single step of a series of changes: nothing acknowledged is lost.
func TestPowerCut(t *testing.T) {
	for at := 1; ; at++ {
		fs := newMemFS()
		fs.failAt = at
		d, err := open(Options{State: "/s", Run: "/r"}, fs)
		if err != nil {
			t.Fatal(err)
		}
		before, after, finished := script(t, d)
		for seed := range leftovers() {
			check(t, fs.restart(rand.New(rand.NewSource(seed))), before, after)
		}
		check(t, fs.killed(), before, after)
		if t.Failed() {
			t.Fatalf("after a power cut at step %d", at)
		}
		if finished {
			if at < 40 {
				t.Errorf("only %d steps: the faults are not where they should be", at)
			}
			return
		}
	}
}

// leftovers is how many of the states that a power cut may leave are looked at: fewer with the race detector.
func leftovers() int64 {
	if testing.Short() {
		return 4
	}
	return 24
}

// A disk error at every single step: the change fails, the index agrees with the disk, later changes work.
func TestDiskError(t *testing.T) {
	for at := 1; ; at++ {
		fs := newMemFS()
		fs.errAt = at
		d, err := open(Options{State: "/s", Run: "/r"}, fs)
		if err != nil {
			t.Fatal(err)
		}
		before, after, finished := script(t, d)
		check(t, fs.killed(), before, after)
		again, err := open(Options{State: "/s", Run: "/r"}, fs.killed())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(again.Entries(), d.Entries()); diff != "" {
			t.Fatalf("error at step %d: index differs from disk: %s", at, diff)
		}
		if finished {
			return
		}
		if err := d.Save(define(t, "later", 7, 64)); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkOpen2000(b *testing.B) {
	o := Options{State: b.TempDir(), Run: b.TempDir()}
	d, err := open(o, disk{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 2000 {
		def := define(b, fmt.Sprintf("d%d", i), i, 64)
		if err := os.WriteFile(d.definitionPath(def.UUID()), []byte(def.XML(0)), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := Open(o); err != nil {
			b.Fatal(err)
		}
	}
}
