package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"virtd/domain/saveimage"
	"virtd/driver"
	"virtd/driver/fake"
	"virtd/virterr"
)

func saveFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixture(t, &fake.Driver{}, newMemStore())
}

func wantLifecycle(t *testing.T, f *fixture, want ...string) {
	t.Helper()
	if got := f.lifecycle(len(want)); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

// forgetEvents forgets what came, and what is on its way.
func (f *fixture) forgetEvents() {
	f.t.Helper()
	const mark EventKind = -99
	f.m.events.Emit(Event{Kind: mark})
	for range 500 {
		f.mu.Lock()
		if slices.ContainsFunc(f.events, func(e Event) bool { return e.Kind == mark }) {
			f.events = nil
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
	f.t.Fatal("an event did not come")
}

func TestSaveRestore(t *testing.T) {
	for _, c := range []struct {
		name    string
		flags   SaveFlags // of the restore
		suspend bool
		state   State
		reason  Reason
		events  []string
	}{
		{"running", 0, false, Running, RunningRestored, []string{"2,2", "4,0"}},
		{"paused", 0, true, Paused, PausedUser, []string{"2,2", "3,4"}},
		{"to paused", SavePaused, false, Paused, PausedUser, []string{"2,2", "3,4"}},
		{"to running", SaveRunning, true, Running, RunningRestored, []string{"2,2", "4,0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := saveFixture(t)
			d := f.started("demo", "")
			ctx := context.Background()
			before := 3 // defined, resumed, started
			if c.suspend {
				before++
				if err := d.Suspend(ctx); err != nil {
					t.Fatal(err)
				}
			}
			f.lifecycle(before)
			f.forgetEvents()
			path := filepath.Join(t.TempDir(), "image")
			if err := d.Save(ctx, path, "", 0); err != nil {
				t.Fatal(err)
			}
			wantState(t, d, ShutOff, ShutOffSaved)
			if c.suspend {
				wantLifecycle(t, f, "5,4")
			} else {
				wantLifecycle(t, f, "3,0", "5,4")
			}
			if job := d.LastJob(true); job.Operation != JobSave || job.Failed || job.Total != 64<<20 {
				t.Errorf("last job %+v", job)
			}
			f.forgetEvents()
			if err := f.m.Restore(ctx, path, "", c.flags); err != nil {
				t.Fatal(err)
			}
			wantState(t, d, c.state, c.reason)
			wantLifecycle(t, f, c.events...)
			wantCode(t, f.m.Restore(ctx, path, "", 0), virterr.OperationInvalid, "Requested operation is not valid: domain 'demo' is already active")
		})
	}
}

// TestTransientRoundTrip: a domain that nothing stores goes with its engine and comes back with its image.
func TestTransientRoundTrip(t *testing.T) {
	f := saveFixture(t)
	ctx := context.Background()
	d, err := f.m.CreateXML(ctx, testXML("demo", ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.ManagedSave(ctx, 0), virterr.OperationInvalid, "Requested operation is not valid: cannot do managed save for transient domain")
	path := filepath.Join(t.TempDir(), "image")
	if err := d.Save(ctx, path, "", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.m.LookupByName("demo"); !virterr.Is(err, virterr.NoDomain) {
		t.Errorf("a transient domain after its save: %v", err)
	}
	if err := f.m.Restore(ctx, path, "", 0); err != nil {
		t.Fatal(err)
	}
	if d, err = f.m.LookupByName("demo"); err != nil || d.Persistent() {
		t.Fatalf("%v, persistent", err)
	}
	wantState(t, d, Running, RunningRestored)
}

// TestFailedSave: whatever goes wrong, the guest goes on and there is no image.
func TestFailedSave(t *testing.T) {
	full := errors.New("no space left on device")
	for _, c := range []struct {
		name, method string
		want         string
	}{
		{"refused", "Save", "refused"},
		{"full", "SaveWrites", "operation failed: cannot save domain 'demo' to '<image>': save the machine: no space left on device"},
		{"commit", "SavedQuit", "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			drv := &fake.Driver{}
			f := newFixture(t, drv, newMemStore())
			d := f.started("demo", "")
			drv.OnCall = func(_ context.Context, _ *fake.Engine, method string) error {
				switch {
				case method != c.method:
					return nil
				case method == "SaveWrites":
					return full
				}
				return errors.New("refused")
			}
			path := filepath.Join(t.TempDir(), "image")
			err := d.Save(context.Background(), path, "", 0)
			if err == nil || strings.ReplaceAll(err.Error(), path, "<image>") != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if c.method == "SavedQuit" {
				return // an engine that neither leaves nor answers
			}
			wantReason := RunningUnsaved
			if c.method == "Save" {
				wantReason = RunningBooted
			}
			wantState(t, d, Running, wantReason)
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("an image is left: %v", err)
			}
		})
	}
}

func TestSaveRefuses(t *testing.T) {
	f := saveFixture(t)
	ctx := context.Background()
	d := f.define("demo", "")
	dir := t.TempDir()
	wantCode(t, d.Save(ctx, filepath.Join(dir, "a"), "", 0), virterr.OperationInvalid, "Requested operation is not valid: domain is not running")
	wantCode(t, d.ManagedSave(ctx, 0), virterr.OperationInvalid, "Requested operation is not valid: domain is not running")
	if err := d.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.Save(ctx, "a", "", 0), virterr.InvalidArg, "invalid argument: path 'a' of an image is not absolute")
	missing := filepath.Join(dir, "no", "a")
	wantCode(t, d.Save(ctx, missing, "", 0), virterr.SystemError, "Failed to create file '"+missing+"': No such file or directory")
	if err := d.Save(ctx, filepath.Join(dir, "a"), testXML("demo", ""), 0); !virterr.Is(err, virterr.ConfigUnsupported) || !strings.Contains(err.Error(), "Target domain uuid") {
		t.Errorf("a document of another domain: %v", err)
	}
	wantState(t, d, Running, RunningBooted)
	wantCode(t, f.m.Restore(ctx, filepath.Join(dir, "b"), "", 0), virterr.SystemError, "Failed to open file '"+filepath.Join(dir, "b")+"': No such file or directory")
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.m.Restore(ctx, other, "", 0), virterr.OperationFailed, "operation failed: image magic is incorrect ('"+other+"')")
}

// TestVoidImage: an image whose guest went on is not restored, and the domain stays as it was.
func TestVoidImage(t *testing.T) {
	f := saveFixture(t)
	d := f.started("demo", "")
	path := filepath.Join(t.TempDir(), "image")
	if err := d.Save(context.Background(), path, "", 0); err != nil {
		t.Fatal(err)
	}
	img, err := saveimage.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	at, err := img.State().Seek(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	img.Close()
	if err := os.Truncate(path, at); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.m.Restore(context.Background(), path, "", 0), virterr.OperationFailed, "operation failed: save image is incomplete ('"+path+"')")
	wantState(t, d, ShutOff, ShutOffSaved)
}

func TestAbortSave(t *testing.T) {
	drv := &fake.Driver{}
	f := newFixture(t, drv, newMemStore())
	d := f.started("demo", "")
	wantCode(t, d.AbortJob(), virterr.OperationInvalid, "Requested operation is not valid: no job is active on the domain")
	entered := make(chan struct{})
	drv.OnCall = func(ctx context.Context, _ *fake.Engine, method string) error {
		if method == "SaveWrites" {
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	ctx, leave := context.WithCancel(context.Background())
	path := filepath.Join(t.TempDir(), "image")
	saved := make(chan error, 1)
	go func() { saved <- d.Save(ctx, path, "", 0) }()
	<-entered
	leave() // the client is gone, the save is not
	info, err := d.JobInfo(context.Background())
	if err != nil || info.Operation != JobSave || info.Ended || info.Processed != 16<<20 {
		t.Errorf("job %+v, %v", info, err)
	}
	wantState(t, d, Paused, PausedSave)
	if err := d.AbortJob(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-saved, virterr.OperationAborted, "operation aborted: domain save job: canceled by client")
	wantState(t, d, Running, RunningUnsaved)
	if job := d.LastJob(false); !job.Canceled || !job.Failed {
		t.Errorf("last job %+v", job)
	}
	if job := d.LastJob(false); job.Operation != 0 {
		t.Errorf("a last job that was told already: %+v", job)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an image is left: %v", err)
	}
}

// TestDestroyDuringSave ends both.
func TestDestroyDuringSave(t *testing.T) {
	drv := &fake.Driver{}
	f := newFixture(t, drv, newMemStore())
	d := f.started("demo", "")
	entered := make(chan struct{})
	drv.OnCall = func(ctx context.Context, _ *fake.Engine, method string) error {
		if method == "SaveWrites" {
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	saved := make(chan error, 1)
	go func() { saved <- d.Save(context.Background(), filepath.Join(t.TempDir(), "image"), "", 0) }()
	<-entered
	if err := d.Destroy(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-saved; !virterr.Is(err, virterr.OperationAborted) {
		t.Error(err)
	}
	wantState(t, d, ShutOff, ShutOffDestroyed)
}

func TestSaveImageDefine(t *testing.T) {
	f := saveFixture(t)
	ctx := context.Background()
	d := f.started("demo", "<title>before</title>")
	path := filepath.Join(t.TempDir(), "image")
	if err := d.Save(ctx, path, "", 0); err != nil {
		t.Fatal(err)
	}
	text, err := f.m.SaveImageXML(path, 0)
	if err != nil || !strings.Contains(text, "<title>before</title>") {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := f.m.SaveImageDefine(path, strings.Replace(text, "before", "after", 1), SavePaused); err != nil {
		t.Fatal(err)
	}
	if text, err = f.m.SaveImageXML(path, 0); err != nil || !strings.Contains(text, "<title>after</title>") {
		t.Fatalf("%v\n%s", err, text)
	}
	err = f.m.SaveImageDefine(path, strings.Replace(text, "65536", "131072", 2), 0)
	wantCode(t, err, virterr.ConfigUnsupported, "unsupported configuration: Target domain max memory 131072 does not match source 65536")
	if err := f.m.Restore(ctx, path, "", 0); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, Paused, PausedUser)
}

func TestCoreDump(t *testing.T) {
	f := saveFixture(t)
	ctx := context.Background()
	d := f.started("demo", "")
	path := filepath.Join(t.TempDir(), "core")
	if err := d.CoreDump(ctx, path, 0, DumpMemoryOnly|DumpLive); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "fake core, live true\n" {
		t.Errorf("%q", text)
	}
	wantCode(t, d.CoreDump(ctx, path, 1, DumpMemoryOnly), virterr.OperationInvalid, "Requested operation is not valid: unsupported dumpformat 'kdump-zlib' for this QEMU binary")
	wantCode(t, d.CoreDump(ctx, path, 99, DumpMemoryOnly), virterr.InvalidArg, "invalid argument: invalid value of dumpformat: 99")
	if err := d.CoreDump(ctx, path, 0, 0); !virterr.Is(err, virterr.OperationUnsupported) {
		t.Error(err)
	}
	if err := d.CoreDump(ctx, path, 0, DumpMemoryOnly|DumpReset); err != nil {
		t.Fatal(err)
	}
	f.lifecycle(4)
	f.forgetEvents()
	if err := d.CoreDump(ctx, path, 0, DumpMemoryOnly|DumpCrash); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, ShutOff, ShutOffCrashed)
	wantLifecycle(t, f, "5,2")
	wantCode(t, d.CoreDump(ctx, path, 0, DumpMemoryOnly), virterr.OperationInvalid, "Requested operation is not valid: domain is not running")
}

// TestStopReasons: what an engine does for a save or dump is told apart from what a user did.
func TestStopReasons(t *testing.T) {
	f := saveFixture(t)
	d := f.started("demo", "")
	e := f.drv.Engine("demo")
	for reason, want := range map[string]Reason{driver.StoppedForSave: PausedSave, driver.StoppedForDump: PausedDump, "": PausedUser} {
		e.Emit(driver.Stopped{Reason: reason})
		wantState(t, d, Paused, want)
		e.Emit(driver.Resumed{})
	}
}

// TestSaveWhileGuestEjects: a guest can let go of a device at any time. An image whose document has one that its state has
// not could never be restored: there is none, and the guest goes on.
func TestSaveWhileGuestEjects(t *testing.T) {
	drv := &fake.Driver{}
	f := newFixture(t, drv, newMemStore())
	d := f.started("demo", "")
	yield := true
	drv.OnCall = func(_ context.Context, e *fake.Engine, method string) error {
		if method == "Save" && yield {
			e.Yield("net0")
			yield = false
		}
		return nil
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := d.Save(context.Background(), path, "", 0); !virterr.Is(err, virterr.OperationFailed) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an image is left: %v", err)
	}
	if err := d.Save(context.Background(), path, "", 0); err != nil {
		t.Errorf("again: %v", err)
	}
}
