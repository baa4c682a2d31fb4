package manager

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

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

func TestAdoption(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	a, b, c := f.started("a", ""), f.started("b", ""), f.started("c", "")
	if err := b.Suspend(bg); err != nil {
		t.Fatal(err)
	}
	if err := a.SetMemory(bg, 40000, AffectLive); err != nil {
		t.Fatal(err)
	}
	before, err := a.XML(0)
	if err != nil {
		t.Fatal(err)
	}
	ids := []int{a.Ref().ID, b.Ref().ID}
	crash := f.drv.Engine("c")
	pauseLater := f.drv.Engine("a")
	_ = c
	f.m.Close()
	crash.Exit(driver.ExitOOM, "killed by the host")
	_ = pauseLater
	f.events = nil
	f.open()

	a, _ = f.m.LookupByName("a")
	b, _ = f.m.LookupByName("b")
	c, _ = f.m.LookupByName("c")
	wantState(t, a, Running, RunningBooted)
	wantState(t, b, Paused, PausedUser)
	wantState(t, c, ShutOff, ShutOffCrashed)
	if info := c.Info(); info.LastExit != "oom: killed by the host" {
		t.Errorf("last exit %q", info.LastExit)
	}
	if got := []int{a.Ref().ID, b.Ref().ID}; !cmp.Equal(got, ids) {
		t.Errorf("ids %v, were %v", got, ids)
	}
	if after, _ := a.XML(0); after != before {
		t.Error(cmp.Diff(before, after))
	}
	if info := a.Info(); info.CurrentMemory != 40000 {
		t.Errorf("memory %d", info.CurrentMemory)
	}
	if d := f.started("d", ""); d.Ref().ID <= ids[1] {
		t.Errorf("new domain has id %d", d.Ref().ID)
	}
	if err := a.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { // still known to the one after, until the domain is gone
		f.replace()
		c, _ := f.m.LookupByName("c")
		wantState(t, c, ShutOff, ShutOffCrashed)
		if info := c.Info(); info.LastExit != "oom: killed by the host" {
			t.Errorf("last exit %q", info.LastExit)
		}
		if err := c.Undefine(bg, 0); err != nil {
			t.Fatal(err)
		}
		if s, _ := f.store.Statuses(); len(s) != 2 { // b and d run
			t.Error(s)
		}
	}()
	// c's end, then d's start, then a's end
	if diff := cmp.Diff([]string{"5,5", "0,0", "4,0", "2,0", "6,2", "5,1"}, f.lifecycle(6)); diff != "" {
		t.Error(diff)
	}
}

func TestOtherBootIsNotAdopted(t *testing.T) {
	st := newMemStore()
	f := newFixture(t, &fake.Driver{}, st)
	f.started("a", "")
	f.m.Close()
	for id, s := range st.statuses {
		s.BootID = "an earlier boot"
		st.statuses[id] = s
	}
	f.open()
	d, err := f.m.LookupByName("a")
	if err != nil || d.Active() {
		t.Fatal(err)
	}
	if len(st.statuses) != 0 {
		t.Fatal("the stale record is still there")
	}
}

func TestQueriesDoNotWaitForAJob(t *testing.T) {
	drv := &fake.Driver{}
	f := newFixture(t, drv, newMemStore())
	d := f.started("a", "")
	stuck, release := make(chan struct{}), make(chan struct{})
	drv.OnCall = func(ctx context.Context, _ *fake.Engine, method string) error {
		if method != "Reset" {
			return nil
		}
		close(stuck)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	done := make(chan error, 1)
	go func() { done <- d.Reset(bg) }()
	<-stuck
	d.Info()
	f.m.List(0)
	for what, err := range map[string]error{
		"XML":     second(d.XML(0)),
		"Stats":   second(d.Stats(bg, 0)),
		"Memory":  second(d.MemoryStats(bg)),
		"Block":   second(d.BlockStats(bg, "vda")),
		"VCPUs":   second(d.VCPUs(bg)),
		"Monitor": second(d.Monitor(bg, "info balloon", true)),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	short, cancel := context.WithTimeout(bg, 50*time.Millisecond)
	defer cancel()
	if err := d.Suspend(short); !virterr.Is(err, virterr.OperationAborted) {
		t.Errorf("a second job got in: %v", err)
	}
	if err := d.Destroy(bg, 0); err != nil { // takes the domain from the job
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("the interrupted job says it worked")
	}
	close(release)
}

func second[T any](_ T, err error) error { return err }

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

func TestAutostartOncePerBoot(t *testing.T) {
	mark := t.TempDir() + "/autostarted"
	f := newFixture(t, &fake.Driver{}, newMemStore())
	f.m.cfg.AutostartMark = mark
	d := f.define("a", "")
	f.define("b", "")
	if err := d.SetAutostart(bg, true); err != nil {
		t.Fatal(err)
	}
	f.m.Autostart(bg)
	if got := f.m.List(ListActive); len(got) != 1 || got[0] != d {
		t.Fatal(got)
	}
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	f.m.Autostart(bg)
	if d.Active() {
		t.Fatal("started a second time in one boot")
	}
	if err := os.WriteFile(mark, []byte("an earlier boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.m.Autostart(bg)
	if !d.Active() {
		t.Fatal("not started in a new boot")
	}
}

func TestConsoleHasOneSession(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	first, err := d.OpenConsole("", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.OpenConsole("serial0", 0)
	wantCode(t, err, virterr.OperationFailed, "operation failed: Active console session exists for this domain")
	taken, err := d.OpenConsole("serial0", ConsoleForce)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal("the first session goes on:", err)
	}
	if _, err := taken.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := d.OpenConsole("", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(again); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	_, err = d.OpenConsole("", 0)
	wantCode(t, err, virterr.OperationInvalid, "Requested operation is not valid: domain is not running")
}

func TestConfigAndLive(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	if err := d.SetMemory(bg, 30000, AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
	if err := d.SetVCPUs(bg, 1, AffectConfig); err != nil {
		t.Fatal(err)
	}
	if err := d.SetVCPUs(bg, 1, AffectLive); !virterr.Is(err, virterr.OperationUnsupported) {
		t.Fatal(err)
	}
	if err := d.PinVCPU(bg, 1, []byte{0b1011}, AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
	if err := d.SetMetadata(bg, MetadataTitle, "hello", "", "", AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
	live, _ := d.VCPUCount(AffectLive)
	config, _ := d.VCPUCount(AffectConfig)
	most, _ := d.VCPUCount(AffectConfig | VCPUMaximum)
	if live != 2 || config != 1 || most != 2 {
		t.Error("vcpus", live, config, most)
	}
	vcpus, err := d.VCPUs(bg)
	if err != nil || !cmp.Equal(vcpus[1].Affinity, []byte{0b1011}) {
		t.Error(vcpus, err)
	}
	for _, flags := range []Affect{AffectLive, AffectConfig} {
		pins, err := d.VCPUPins(flags)
		if err != nil || !cmp.Equal(pins[1], []byte{0b1011}) {
			t.Error(pins, err)
		}
		title, err := d.Metadata(MetadataTitle, "", flags)
		if title != "hello" || err != nil {
			t.Error(title, err)
		}
	}
	_, err = d.Metadata(MetadataDescription, "", 0)
	wantCode(t, err, virterr.NoDomainMetadata, "metadata not found: Requested description is not present")
	inactive, err := d.XML(domain.XMLInactive)
	if err != nil || !strings.Contains(inactive, "<currentMemory unit='KiB'>30000</currentMemory>") ||
		!strings.Contains(inactive, "<vcpupin vcpu='1' cpuset='0-1,3'/>") {
		t.Error(inactive, err)
	}
}

func TestStats(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	f.drv.Engine("a").SetGuestStats(map[driver.MemoryStat]uint64{driver.StatFree: 10 << 20, driver.StatTotal: 60 << 20})
	params, err := d.Stats(bg, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for _, p := range params {
		got[p.Name] = p.Value
	}
	want := map[string]any{
		"state.state": int32(1), "state.reason": int32(1), "cpu.time": uint64(3e9), "cpu.user": uint64(2e9), "cpu.system": uint64(1e9),
		"balloon.current": uint64(65536), "balloon.maximum": uint64(65536), "balloon.unused": uint64(10240),
		"balloon.available": uint64(61440), "balloon.last-update": uint64(1700000000), "balloon.rss": uint64(32768),
		"vcpu.current": uint32(2), "vcpu.maximum": uint32(2), "vcpu.0.state": int32(1), "vcpu.0.time": uint64(1e9),
		"vcpu.1.state": int32(1), "vcpu.1.time": uint64(1e9),
		"net.count": uint32(1), "net.0.name": "vnet10", "net.0.rx.bytes": uint64(100), "net.0.rx.pkts": uint64(1), "net.0.rx.errs": uint64(0),
		"net.0.rx.drop": uint64(0), "net.0.tx.bytes": uint64(200), "net.0.tx.pkts": uint64(2), "net.0.tx.errs": uint64(0), "net.0.tx.drop": uint64(0),
		"block.count": uint32(1), "block.0.name": "vda", "block.0.path": "/img/a.raw", "block.0.rd.reqs": uint64(1), "block.0.rd.bytes": uint64(4096),
		"block.0.rd.times": uint64(0), "block.0.wr.reqs": uint64(2), "block.0.wr.bytes": uint64(8192), "block.0.wr.times": uint64(0),
		"block.0.fl.reqs": uint64(0), "block.0.fl.times": uint64(0), "block.0.allocation": uint64(0), "block.0.capacity": uint64(1 << 20), "block.0.physical": uint64(0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := d.InterfaceStats(bg, "vnet10"); err != nil {
		t.Error(err)
	}
	_, err = d.InterfaceStats(bg, "vnet11")
	wantCode(t, err, virterr.InvalidArg, "invalid argument: 'vnet11' is not a known interface")
	_, err = d.BlockStats(bg, "vdz")
	wantCode(t, err, virterr.InvalidArg, "invalid argument: invalid path 'vdz'")
	if sum, err := d.BlockStats(bg, ""); err != nil || sum.WriteOps != 2 {
		t.Error(sum, err)
	}
}

func TestList(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	f.define("z", "")
	f.define("m", "")
	r := f.started("r", "")
	p := f.started("p", "")
	if err := p.Suspend(bg); err != nil {
		t.Fatal(err)
	}
	tr, err := f.m.CreateXML(bg, testXML("t", ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetAutostart(bg, true); err != nil {
		t.Fatal(err)
	}
	_ = tr
	for _, c := range []struct {
		flags ListFlags
		want  string
	}{
		{0, "r p t m z"},
		{ListActive, "r p t"},
		{ListInactive, "m z"},
		{ListActive | ListInactive, "r p t m z"},
		{ListTransient, "t"},
		{ListPersistent | ListActive, "r p"},
		{ListPaused | ListShutOff, "p m z"},
		{ListAutostart, "r"},
		{ListNoAutostart | ListInactive, "m z"},
		{ListManagedSave, ""},
		{ListHasSnapshot, ""},
		{ListNoSnapshot | ListRunning, "r t"},
		{ListOther, ""},
	} {
		var names []string
		for _, d := range f.m.List(c.flags) {
			names = append(names, d.Name())
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("List(%#x) = %q, want %q", uint32(c.flags), got, c.want)
		}
	}
}
