package manager

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/domain/saveimage"
	"virtd/domain/wholefile"
	"virtd/driver"
	"virtd/driver/fake"
	"virtd/virterr"
)

func managedFixture(t *testing.T) (*fixture, *Domain) {
	t.Helper()
	f := saveFixture(t)
	d := f.started("demo", "")
	if err := d.ManagedSave(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, ShutOff, ShutOffSaved)
	f.lifecycle(5) // defined, resumed, started, suspended, stopped
	return f, d
}

func wantSaved(t *testing.T, d *Domain, want bool) {
	t.Helper()
	if got, err := d.HasManagedSave(); err != nil || got != want {
		t.Errorf("managed save %v, %v; want %v", got, err, want)
	}
	if _, err := os.Stat(d.savedPath()); (err == nil) != want {
		t.Errorf("the image: %v; want %v", err, want)
	}
}

func TestManagedSave(t *testing.T) {
	f, d := managedFixture(t)
	ctx := context.Background()
	wantSaved(t, d, true)
	if l := f.m.List(ListManagedSave); len(l) != 1 || len(f.m.List(ListNoManagedSave)) != 0 {
		t.Errorf("listed: %v", l)
	}
	if text, err := d.ManagedSaveXML(0); err != nil || !strings.Contains(text, "<name>demo</name>") {
		t.Errorf("%v\n%s", err, text)
	}
	wantCode(t, d.Undefine(ctx, 0), virterr.OperationInvalid, "Requested operation is not valid: Refusing to undefine while domain managed save image exists")
	f.forgetEvents()
	if err := d.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, Running, RunningRestored)
	wantLifecycle(t, f, "2,2", "4,0")
	wantSaved(t, d, false)
	wantCode(t, d.ManagedSaveDefine(ctx, "x", 0), virterr.OperationInvalid, "Requested operation is not valid: domain does not have managed save image")
	if err := d.RemoveManagedSave(ctx); !virterr.Is(err, virterr.SystemError) {
		t.Error(err)
	}
}

func TestManagedSaveForceBoot(t *testing.T) {
	_, d := managedFixture(t)
	if err := d.Start(context.Background(), StartForceBoot); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, Running, RunningBooted)
	wantSaved(t, d, false)
}

func TestManagedSaveUndefine(t *testing.T) {
	_, d := managedFixture(t)
	if err := d.Undefine(context.Background(), UndefineManagedSave); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.savedPath()); err == nil {
		t.Error("the image stayed")
	}
}

// TestNothingStartsPastTheImage: neither way to start the domain without its image leaves the image for later.
func TestNothingStartsPastTheImage(t *testing.T) {
	f, d := managedFixture(t)
	ctx := context.Background()
	xml := strings.Replace(testXML("demo", ""), "</name>", "</name><uuid>"+d.UUID().String()+"</uuid>", 1)
	if _, err := f.m.CreateXML(ctx, xml, 0); !virterr.Is(err, virterr.OperationInvalid) {
		t.Errorf("create: %v", err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	image, err := os.ReadFile(d.savedPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.m.Restore(ctx, copied, "", 0); !virterr.Is(err, virterr.OperationInvalid) {
		t.Errorf("restore: %v", err)
	}
	wantState(t, d, ShutOff, ShutOffSaved)
	wantSaved(t, d, true)
}

// TestImageOutlivesFailedStart: an image is used up by the start that succeeds.
func TestImageOutlivesFailedStart(t *testing.T) {
	f, d := managedFixture(t)
	ctx := context.Background()
	image, err := os.ReadFile(d.savedPath())
	if err != nil {
		t.Fatal(err)
	}
	damaged := append([]byte(nil), image...)
	copy(damaged[len(damaged)-20:], "xxxxxxxxxxxxxxxxxxxx")
	if err := os.WriteFile(d.savedPath(), damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	err = d.Start(ctx, 0)
	if err == nil || !strings.Contains(err.Error(), "cut off") || !strings.Contains(err.Error(), "--force-boot") {
		t.Errorf("start from a damaged state: %v", err)
	}
	wantSaved(t, d, true)
	if f.drv.Len() != 0 {
		t.Error("an engine is left")
	}
	if err := os.WriteFile(d.savedPath(), image, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(ctx, StartPaused); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, Paused, PausedUser)
	wantSaved(t, d, false)
}

// TestImagesAtOpen: what another life of virtd left is used, or removed where it would do harm.
func TestImagesAtOpen(t *testing.T) {
	f, d := managedFixture(t)
	path := d.savedPath()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(filepath.Dir(path), ".x.save.1"+wholefile.TempSuffix)
	if err := os.WriteFile(part, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reopen := func() *Domain {
		f.replace()
		d, err := f.m.LookupByName("demo")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d = reopen()
	wantSaved(t, d, true)
	if _, err := os.Stat(part); err == nil {
		t.Error("an unfinished image is left")
	}
	if err := d.Start(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, Running, RunningRestored)

	// an image beside a guest that runs is of its past
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	d = reopen()
	wantSaved(t, d, false)
	wantState(t, d, Running, RunningRestored)

	// the engine took the state back, and ended later
	f.drv.Engine("demo").Exit(driver.ExitShutdown, "")
	wantState(t, d, ShutOff, ShutOffShutdown)
	img := filepath.Join(t.TempDir(), "void")
	if err := os.WriteFile(path, image[:4096+2*64<<10], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := saveimage.Open(path); err == nil {
		t.Fatal("not void: ", img)
	}
	d = reopen()
	wantSaved(t, d, false)
}

// TestEngineSavedWhileAway: virtd ended after it told the engine of a saved guest to leave.
func TestEngineSavedWhileAway(t *testing.T) {
	drv := &fake.Driver{}
	f := newFixture(t, drv, newMemStore())
	d := f.started("demo", "")
	e := drv.Engine("demo")
	f.m.Close()
	e.Exit(driver.ExitQuit, driver.SavedDetail)
	f.open()
	d, err := f.m.LookupByName("demo")
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, d, ShutOff, ShutOffSaved)
}
