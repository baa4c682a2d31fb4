package manager

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"virtd/driver"
	"virtd/driver/fake"
	"virtd/virterr"
)

// model is what a domain must be after a sequence of operations.
type model struct {
	exists, persistent, running, paused, crashed bool
}

// TestModel compares the manager with a small model under random sequences of operations, kills of virtd included.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := &fixture{t: t, drv: &fake.Driver{}, store: newMemStore()}
		f.open()
		defer func() { f.m.Close() }()
		var want model
		xml := testXML("m", "<on_crash>preserve</on_crash><uuid>11111111-2222-3333-4444-555555555555</uuid>")
		dom := func() *Domain {
			d, err := f.m.LookupByName("m")
			if (err == nil) != want.exists {
				rt.Fatalf("lookup: %v, want exists=%v", err, want.exists)
			}
			return d
		}
		// expect checks that an operation succeeds exactly when it should.
		expect := func(what string, err error, ok bool) {
			if (err == nil) != ok {
				rt.Fatalf("%s: %v, want success=%v in %+v", what, err, ok, want)
			}
		}
		stopped := func() {
			want.running, want.paused, want.crashed = false, false, false
			want.exists = want.persistent
		}
		on := func(f func(d *Domain)) func(*rapid.T) {
			return func(t *rapid.T) {
				if !want.exists {
					t.Skip("no domain")
				}
				f(dom())
			}
		}
		guest := func(act func(e *fake.Engine)) func(*rapid.T) {
			return func(t *rapid.T) {
				e := f.drv.Engine("m")
				if (e != nil) != want.running {
					rt.Fatalf("engine %v, want running=%v", e, want.running)
				}
				if e == nil || want.crashed {
					t.Skip("no guest")
				}
				act(e)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { want.check(rt, f) },
			"define": func(*rapid.T) {
				_, err := f.m.Define(bg, xml, 0)
				expect("define", err, true)
				want.exists, want.persistent = true, true
			},
			"create": func(*rapid.T) {
				_, err := f.m.CreateXML(bg, xml, 0)
				expect("create", err, !want.running)
				want.exists, want.running = true, true
			},
			"start": on(func(d *Domain) {
				expect("start", d.Start(bg, 0), !want.running)
				want.running = true
			}),
			"undefine": on(func(d *Domain) {
				expect("undefine", d.Undefine(bg, 0), want.persistent)
				want.persistent, want.exists = false, want.running
			}),
			"destroy": on(func(d *Domain) {
				expect("destroy", d.Destroy(bg, 0), want.running)
				stopped()
			}),
			"suspend": on(func(d *Domain) {
				expect("suspend", d.Suspend(bg), want.running && !want.crashed)
				want.paused = want.running && !want.crashed
			}),
			"resume": on(func(d *Domain) {
				err := d.Resume(bg)
				expect("resume", err, want.running && (want.paused || want.crashed))
				want.paused, want.crashed = false, false
			}),
			"guest powers off": guest(func(e *fake.Engine) { e.GuestPoweroff(); stopped() }),
			"guest panics":     guest(func(e *fake.Engine) { e.GuestPanic(); want.crashed, want.paused = true, false }),
			"engine dies":      guest(func(e *fake.Engine) { e.Exit(driver.ExitCrashed, "signal"); stopped() }),
			"virtd is replaced": func(*rapid.T) {
				f.m.Close()
				f.open()
			},
			"engine dies while virtd is away": func(*rapid.T) {
				e := f.drv.Engine("m")
				f.m.Close()
				if e != nil {
					e.Exit(driver.ExitCrashed, "signal")
					stopped()
				}
				f.open()
			},
		})
	})
}

// running counts the records of running domains.
func (f *fixture) running() (n int) {
	statuses, _ := f.store.Statuses()
	for _, s := range statuses {
		if State(s.State) != ShutOff {
			n++
		}
	}
	return n
}

// check compares everything clients can see with the model.
func (want model) check(t *rapid.T, f *fixture) {
	d, err := f.m.LookupByName("m")
	if (err == nil) != want.exists {
		t.Fatalf("lookup: %v, want %+v", err, want)
	}
	if n := len(f.m.List(0)); (n == 1) != want.exists {
		t.Fatalf("%d domains, want %+v", n, want)
	}
	if n := f.running(); (n == 1) != want.running {
		t.Fatalf("%d status records, want %+v", n, want)
	}
	if !want.exists {
		return
	}
	state := ShutOff
	switch {
	case want.crashed:
		state = Crashed
	case want.paused:
		state = Paused
	case want.running:
		state = Running
	}
	info := d.Info()
	if info.State != state || info.Persistent != want.persistent || (info.ID >= 0) != want.running {
		t.Fatalf("%+v, want %s %+v", info, state, want)
	}
	if _, err := f.m.LookupByID(info.ID); (err == nil) != want.running {
		t.Fatalf("lookup by id: %v", err)
	}
	if f.drv.Len() > 1 || (f.drv.Len() == 1) != want.running {
		t.Fatalf("%d engines, want %+v", f.drv.Len(), want)
	}
}

// TestEverythingAtOnce lets many clients work on the same few domains. The race detector and the final state judge.
func TestEverythingAtOnce(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	var clients sync.WaitGroup
	until := time.Now().Add(time.Second)
	for c := range 8 {
		clients.Go(func() {
			for i := 0; time.Now().Before(until); i++ {
				f.work(t, fmt.Sprintf("d%d", (c+i)%3), i*7+c)
			}
		})
	}
	clients.Wait()
	for _, d := range f.m.List(ListActive) {
		if err := d.Destroy(bg, 0); err != nil && !virterr.Is(err, virterr.OperationInvalid) {
			t.Error(err)
		}
	}
	if n := f.running(); n != 0 || f.drv.Len() != 0 {
		t.Errorf("%d records and %d engines are left", n, f.drv.Len())
	}
}

// work does one thing to a domain; whether it may is another client's doing. Only errors that say so are right.
func (f *fixture) work(t *testing.T, name string, n int) {
	d, err := f.m.LookupByName(name)
	switch {
	case err != nil || n%16 == 0:
		_, err = f.m.Define(bg, testXML(name, "<uuid>11111111-2222-3333-4444-5555555555"+fmt.Sprintf("%02d", name[1]-'0')+"</uuid>"), 0)
	case n%16 == 1:
		err = d.Undefine(bg, 0)
	case n%16 == 2:
		if e := f.drv.Engine(name); e != nil {
			e.GuestPoweroff()
		}
	case n%16 == 3:
		if e := f.drv.Engine(name); e != nil {
			e.Exit(driver.ExitCrashed, "")
		}
	case n%16 < 6:
		err = d.Destroy(bg, 0)
	case n%16 == 6:
		err = d.Suspend(bg)
	case n%16 == 7:
		err = d.Resume(bg)
	case n%16 == 8:
		err = d.Reboot(bg, 0)
	case n%16 == 9:
		_, err = d.Stats(bg, 0, true)
		f.m.List(0)
	case n%16 == 10:
		_, err = d.XML(0)
	case n%16 == 11:
		err = d.SetMemory(bg, 32<<10, AffectCurrent)
	default:
		err = d.Start(bg, 0)
	}
	if n%16 > 11 && virterr.Is(err, virterr.InternalError) { // its engine was killed under it
		return
	}
	for _, code := range []virterr.Code{virterr.OperationInvalid, virterr.NoDomain, virterr.OperationAborted} {
		if virterr.Is(err, code) {
			return
		}
	}
	if err != nil {
		t.Errorf("%s, step %d: %v", name, n%16, err)
	}
}
