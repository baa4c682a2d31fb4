package manager

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/fake"
	"virtd/virterr"
)

var bg = context.Background()

func TestEventSequencesAreLibvirts(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		more   string
		do     func(t *testing.T, f *fixture, d *Domain)
		want   []string // after Defined, Resumed, Started
		state  State
		reason Reason
	}{
		{"destroy", "", func(t *testing.T, f *fixture, d *Domain) { must(t, d.Destroy(bg, 0)) },
			[]string{"6,2", "5,1"}, ShutOff, ShutOffDestroyed},
		{"suspend and resume", "", func(t *testing.T, f *fixture, d *Domain) {
			must(t, d.Suspend(bg))
			wantState(t, d, Paused, PausedUser)
			must(t, d.Suspend(bg))
			must(t, d.Resume(bg))
		}, []string{"3,0", "4,0"}, Running, RunningUnpaused},
		{"guest powers off", "", func(t *testing.T, f *fixture, d *Domain) { f.drv.Engine("a").GuestPoweroff() },
			[]string{"6,1", "5,0"}, ShutOff, ShutOffShutdown},
		{"shutdown", "", func(t *testing.T, f *fixture, d *Domain) {
			must(t, d.Shutdown(bg, 0))
			f.drv.Engine("a").GuestPoweroff()
		}, []string{"6,1", "5,0"}, ShutOff, ShutOffShutdown},
		{"guest resets", "", func(t *testing.T, f *fixture, d *Domain) { f.drv.Engine("a").GuestReset() },
			[]string{"reboot"}, Running, RunningBooted},
		{"reset", "", func(t *testing.T, f *fixture, d *Domain) { must(t, d.Reset(bg)) },
			[]string{"reboot"}, Running, RunningBooted},
		{"reboot", "", func(t *testing.T, f *fixture, d *Domain) {
			must(t, d.Reboot(bg, 0))
			f.drv.Engine("a").GuestPoweroff()
		}, []string{"6,1", "4,0", "reboot"}, Running, RunningUnpaused},
		{"reboot by an engine that only stops", "", func(t *testing.T, f *fixture, d *Domain) {
			f.drv.NoPoweroffAction = true
			must(t, d.Reboot(bg, 0))
			f.drv.Engine("a").GuestPoweroff()
		}, []string{"6,1", "4,0", "reboot"}, Running, RunningBooted},
		{"on_poweroff restart", "<on_poweroff>restart</on_poweroff>", func(t *testing.T, f *fixture, d *Domain) {
			f.drv.Engine("a").GuestPoweroff()
		}, []string{"6,1", "4,0", "reboot"}, Running, RunningBooted},
		{"on_reboot destroy", "<on_reboot>destroy</on_reboot>", func(t *testing.T, f *fixture, d *Domain) {
			f.drv.Engine("a").Exit(driver.ExitReboot, "")
		}, []string{"6,1", "5,0"}, ShutOff, ShutOffShutdown},
		{"panic", "", func(t *testing.T, f *fixture, d *Domain) { f.drv.Engine("a").GuestPanic() },
			[]string{"8,0", "5,2"}, ShutOff, ShutOffCrashed},
		{"panic preserve", "<on_crash>preserve</on_crash>", func(t *testing.T, f *fixture, d *Domain) { f.drv.Engine("a").GuestPanic() },
			[]string{"8,0"}, Crashed, CrashedPanicked},
		{"engine dies", "", func(t *testing.T, f *fixture, d *Domain) { f.drv.Engine("a").Exit(driver.ExitCrashed, "signal 9") },
			[]string{"5,5"}, ShutOff, ShutOffCrashed},
		{"I/O error pauses", "", func(t *testing.T, f *fixture, d *Domain) {
			f.drv.Engine("a").Emit(driver.Stopped{Reason: "io-error"})
		}, []string{"3,2"}, Paused, PausedIOError},
		{"balloon", "", func(t *testing.T, f *fixture, d *Domain) { must(t, d.SetMemory(bg, 32768, 0)) },
			[]string{"balloon 32768"}, Running, RunningBooted},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, &fake.Driver{}, newMemStore())
			d := f.started("a", c.more)
			c.do(t, f, d)
			wantState(t, d, c.state, c.reason)
			want := append([]string{"0,0", "4,0", "2,0"}, c.want...)
			if diff := cmp.Diff(want, f.lifecycle(len(want))); diff != "" {
				t.Fatal(diff)
			}
			if ref := d.Ref(); (ref.ID == -1) != (c.state == ShutOff) {
				t.Errorf("id %d in state %s", ref.ID, c.state)
			}
		})
	}
}

func TestStoppedEventHasNoID(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	f.lifecycle(5)
	f.mu.Lock()
	defer f.mu.Unlock()
	if last := f.events[len(f.events)-1]; last.Domain.ID != -1 || last.Type != LifecycleStopped {
		t.Fatalf("%+v", last)
	}
	if started := f.events[2]; started.Domain.ID != 1 {
		t.Fatalf("%+v", started)
	}
}

func TestStartPaused(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.define("a", "")
	if err := d.Start(bg, StartPaused); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, Paused, PausedUser)
	if err := d.Resume(bg); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, Running, RunningUnpaused)
	if diff := cmp.Diff([]string{"0,0", "2,0", "3,0", "4,0"}, f.lifecycle(4)); diff != "" {
		t.Fatal(diff)
	}
}

func TestErrorTexts(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.define("a", "")
	id := d.UUID().String()
	other := uuid.MustParse("11111111-2222-3333-4444-555555555555")
	_, noName := f.m.LookupByName("x")
	_, noUUID := f.m.LookupByUUID(other)
	_, noRef := f.m.Domain(Ref{UUID: other, Name: "x"})
	_, noID := f.m.LookupByID(3)
	_, dupName := f.m.Define(bg, strings.Replace(testXML("a", ""), "<name>", "<uuid>"+other.String()+"</uuid><name>", 1), 0)
	_, dupUUID := f.m.Define(bg, strings.Replace(testXML("b", ""), "<name>", "<uuid>"+id+"</uuid><name>", 1), 0)
	const off = "Requested operation is not valid: domain is not running"
	for _, c := range []struct {
		what string
		err  error
		code virterr.Code
		text string
	}{
		{"name", noName, virterr.NoDomain, "Domain not found: no domain with matching name 'x'"},
		{"uuid", noUUID, virterr.NoDomain, "Domain not found: no domain with matching uuid '" + other.String() + "'"},
		{"ref", noRef, virterr.NoDomain, "Domain not found: no domain with matching uuid '" + other.String() + "' (x)"},
		{"id", noID, virterr.NoDomain, "Domain not found: no domain with matching id '3'"},
		{"dup name", dupName, virterr.OperationFailed, "operation failed: domain 'a' already exists with uuid " + id},
		{"dup uuid", dupUUID, virterr.OperationFailed, "operation failed: domain 'a' is already defined with uuid " + id},
		{"destroy", d.Destroy(bg, 0), virterr.OperationInvalid, off},
		{"shutdown", d.Shutdown(bg, 0), virterr.OperationInvalid, off},
		{"reboot", d.Reboot(bg, 0), virterr.OperationInvalid, off},
		{"reset", d.Reset(bg), virterr.OperationInvalid, off},
		{"suspend", d.Suspend(bg), virterr.OperationInvalid, off},
		{"resume", d.Resume(bg), virterr.OperationInvalid, off},
		{"setmem live", d.SetMemory(bg, 1024, AffectLive), virterr.OperationInvalid, off},
		{"agent", f.started("r", "").Shutdown(bg, ShutdownAgent), virterr.ArgumentUnsupported, "argument unsupported: QEMU guest agent is not configured"},
	} {
		t.Run(c.what, func(t *testing.T) { wantCode(t, c.err, c.code, c.text) })
	}
	r, err := f.m.LookupByName("r")
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, r.Start(bg, 0), virterr.OperationInvalid, "Requested operation is not valid: domain is already running")
	wantCode(t, r.Resume(bg), virterr.OperationInvalid, "Requested operation is not valid: domain is already running")
	wantCode(t, r.SetMemory(bg, 1<<30, 0), virterr.InvalidArg, "invalid argument: cannot set memory higher than max memory")
	wantCode(t, r.SetMemory(bg, 1<<20, MemMaximum), virterr.OperationInvalid, "Requested operation is not valid: cannot resize the maximum memory on an active domain")
}

func TestTransient(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d, err := f.m.CreateXML(bg, testXML("t", ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.Undefine(bg, 0), virterr.OperationInvalid, "Requested operation is not valid: cannot undefine transient domain")
	wantCode(t, d.SetAutostart(bg, true), virterr.OperationInvalid, "Requested operation is not valid: cannot set autostart for transient domain")
	wantCode(t, d.SetMemory(bg, 2048, AffectConfig), virterr.OperationInvalid, "Requested operation is not valid: transient domains do not have any persistent config")
	xml, err := d.XML(domain.XMLInactive)
	if err != nil || !strings.Contains(xml, "<name>t</name>") {
		t.Fatal(xml, err)
	}
	if _, err := f.m.CreateXML(bg, xml, 0); err == nil || err.Error() != "Requested operation is not valid: domain 't' is already active" {
		t.Fatal(err)
	}
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.m.LookupByName("t"); !virterr.Is(err, virterr.NoDomain) {
		t.Fatal("a transient domain is still there")
	}
	if err := d.Start(bg, 0); !virterr.Is(err, virterr.NoDomain) {
		t.Fatal("a handle to a domain that is gone starts it:", err)
	}
}

func TestDefineMakesTransientPersistentAndUndefineBack(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d, err := f.m.CreateXML(bg, testXML("t", ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	xml, err := d.XML(domain.XMLInactive)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := f.m.Define(bg, xml, 0); err != nil || same != d || !d.Persistent() || !d.Active() {
		t.Fatal(same, err)
	}
	if err := d.Undefine(bg, 0); err != nil || d.Persistent() || !d.Active() {
		t.Fatal(err)
	}
	f.replace() // both facts are in the record
	d, err = f.m.LookupByName("t")
	if err != nil || d.Persistent() || !d.Active() {
		t.Fatal(err)
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	drv := &fake.Driver{OnStart: func(context.Context, *domain.Definition) error { return errors.New("no bridge br0") }}
	f := newFixture(t, drv, newMemStore())
	d := f.define("a", "")
	if err := d.Start(bg, 0); err == nil || err.Error() != "no bridge br0" {
		t.Fatal(err)
	}
	wantState(t, d, ShutOff, ShutOffFailed)
	if _, err := f.m.CreateXML(bg, testXML("t", ""), 0); err == nil {
		t.Fatal("started")
	}
	if got := len(f.m.List(0)); got != 1 {
		t.Fatalf("%d domains", got)
	}
	drv.OnStart = nil
	drv.OnCall = func(_ context.Context, e *fake.Engine, method string) error {
		if method == "Cont" {
			e.Exit(driver.ExitError, "no memory")
			return errors.New("connection lost")
		}
		return nil
	}
	if err := d.Start(bg, 0); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Fatal(err)
	}
	if s, _ := f.store.Statuses(); len(s) != 0 || drv.Len() != 0 {
		t.Fatal("left over:", s, drv.Len())
	}
	if diff := cmp.Diff([]string{"0,0"}, f.lifecycle(1)); diff != "" {
		t.Fatal(diff)
	}
}

// A guest may be through before the engine's answer to its start is: then it has started all the same.
func TestGuestThatEndsAtOnce(t *testing.T) {
	drv := &fake.Driver{OnCall: func(_ context.Context, e *fake.Engine, method string) error {
		if method != "Cont" {
			return nil
		}
		e.Emit(driver.Resumed{})
		e.GuestPoweroff()
		return errors.New("connection lost")
	}}
	f := newFixture(t, drv, newMemStore())
	d := f.define("a", "")
	if err := d.Start(bg, 0); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, ShutOff, ShutOffShutdown)
	if diff := cmp.Diff([]string{"0,0", "4,0", "2,0", "6,1", "5,0"}, f.lifecycle(5)); diff != "" {
		t.Fatal(diff)
	}
}

func TestDefineThatCannotBeStoredIsNotDefined(t *testing.T) {
	st := newMemStore()
	f := newFixture(t, &fake.Driver{}, st)
	st.fail = true
	if _, err := f.m.Define(bg, testXML("a", ""), 0); !errors.Is(err, errStore) {
		t.Fatal(err)
	}
	if len(f.m.List(0)) != 0 {
		t.Fatal("it is listed")
	}
	st.fail = false
	f.define("a", "")
}

func TestStatusThatCannotBeStoredEndsTheStart(t *testing.T) {
	st := newMemStore()
	f := newFixture(t, &fake.Driver{}, st)
	d := f.define("a", "")
	st.fail = true
	if err := d.Start(bg, 0); !errors.Is(err, errStore) {
		t.Fatal(err)
	}
	if f.drv.Len() != 0 || d.Active() {
		t.Fatal("an engine runs that nobody would find")
	}
}

func TestDestroyKillsAnEngineThatDoesNotAnswer(t *testing.T) {
	drv := &fake.Driver{}
	f := newFixture(t, drv, newMemStore())
	d := f.started("a", "")
	drv.OnCall = func(ctx context.Context, _ *fake.Engine, method string) error {
		if method == "Quit" {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	if err := d.Destroy(bg, DestroyGraceful); !virterr.Is(err, virterr.OperationTimeout) {
		t.Fatal(err)
	}
	wantState(t, d, Running, RunningBooted)
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, ShutOff, ShutOffDestroyed)
}
