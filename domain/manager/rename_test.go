package manager

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"virtd/domain"
	"virtd/domain/store"
	"virtd/driver/fake"
	"virtd/virterr"
)

func TestRename(t *testing.T) {
	ctx := context.Background()
	st := newMemStore()
	f := newFixture(t, &fake.Driver{}, st)
	d := f.define("old", "")
	f.define("taken", "")
	id := d.UUID()
	if err := d.Rename(ctx, "new"); err != nil {
		t.Fatal(err)
	}
	if got, err := f.m.LookupByName("new"); err != nil || got != d {
		t.Errorf("lookup by the new name: %v, %v", got, err)
	}
	if _, err := f.m.LookupByName("old"); !virterr.Is(err, virterr.NoDomain) {
		t.Errorf("lookup by the old name: %v, want NoDomain", err)
	}
	xml, err := d.XML(0)
	if err != nil || !strings.Contains(xml, "<name>new</name>") {
		t.Errorf("document: %v %s", err, xml)
	}
	if got, want := f.lifecycle(4), []string{"0,0", "0,0", "1,1", "0,2"}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	for _, tt := range []struct {
		name string
		code virterr.Code
	}{{"taken", virterr.OperationInvalid}, {"new", virterr.OperationInvalid}, {"a/b", virterr.XMLError}, {"", virterr.XMLError}} {
		if err := d.Rename(ctx, tt.name); !virterr.Is(err, tt.code) {
			t.Errorf("rename to %q: %v, want code %d", tt.name, err, tt.code)
		}
	}
	f.define("old", "") // the old name is free
	f.replace()
	again, err := f.m.LookupByName("new")
	if err != nil || again.UUID() != id {
		t.Errorf("after another start: %v, %v", again, err)
	}
	if err := again.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := again.Rename(ctx, "other"); !virterr.Is(err, virterr.OperationInvalid) {
		t.Errorf("rename while it runs: %v, want OperationInvalid", err)
	}
}

// failingSave is a store on a full disk.
type failingSave struct {
	store.Store
	err error
}

func (s *failingSave) Save(def *domain.Definition) error {
	if s.err != nil {
		return s.err
	}
	return s.Store.Save(def)
}

// TestRenameFails: a rename that cannot be stored leaves both names as they were.
func TestRenameFails(t *testing.T) {
	st := &failingSave{Store: newMemStore()}
	f := newFixture(t, &fake.Driver{}, st)
	d := f.define("old", "")
	st.err = errors.New("disk full")
	if err := d.Rename(context.Background(), "new"); !errors.Is(err, st.err) {
		t.Fatalf("rename: %v, want %v", err, st.err)
	}
	st.err = nil
	if got, err := f.m.LookupByName("old"); err != nil || got != d {
		t.Errorf("lookup by the old name: %v, %v", got, err)
	}
	if _, err := f.m.LookupByName("new"); !virterr.Is(err, virterr.NoDomain) {
		t.Errorf("lookup by the new name: %v, want NoDomain", err)
	}
	f.define("new", "")
}

// TestRenameRace: while a domain is renamed to and fro, one of its names always finds it, and a definition under the old name
// either comes before the rename or is refused.
func TestRenameRace(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.define("a", "")
	def, err := d.XML(domain.XMLInactive)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for range 200 {
			from := d.Name()
			to := map[string]string{"a": "b", "b": "a"}[from]
			if err := d.Rename(ctx, to); err != nil {
				t.Errorf("rename %s to %s: %v", from, to, err)
			}
		}
		close(done)
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			_, _ = d.State()
			f.m.List(0)
			if got := f.m.List(0)[0]; got.Ref().UUID != d.UUID() {
				t.Error("lists another domain")
			}
			if _, err := f.m.Define(ctx, def, 0); err != nil && !virterr.Is(err, virterr.OperationFailed) {
				t.Errorf("define: %v", err)
			}
		}
	})
	wg.Wait()
	xml, err := d.XML(0)
	if err != nil || !strings.Contains(xml, "<name>"+d.Name()+"</name>") {
		t.Errorf("the domain is %s, its document says\n%s (%v)", d.Name(), xml, err)
	}
	if got, err := f.m.LookupByName(d.Name()); err != nil || got != d {
		t.Errorf("lookup by %s: %v, %v", d.Name(), got, err)
	}
}
