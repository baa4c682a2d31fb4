package manager

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"virtd/driver"
	"virtd/driver/fake"
)

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
	f.m.Close()
	crash.Exit(driver.ExitOOM, "killed by the host")
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

// TestAutodestroyOverRestart: a domain that was to end with its client's connection ends with the virtd that had it, whether
// it runs, is paused or is transient; others stay, also one that was started anew without the flag.
func TestAutodestroyOverRestart(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	for name, flags := range map[string]StartFlags{"doomed": StartAutodestroy, "paused": StartAutodestroy | StartPaused, "stays": 0, "again": StartAutodestroy} {
		if err := f.define(name, "").Start(bg, flags); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.m.CreateXML(bg, testXML("transient", ""), StartAutodestroy); err != nil {
		t.Fatal(err)
	}
	again, _ := f.m.LookupByName("again")
	if err := again.Destroy(bg, 0); err != nil {
		t.Fatal(err)
	}
	if err := again.Start(bg, 0); err != nil {
		t.Fatal(err)
	}
	f.replace()
	for name, want := range map[string]State{"doomed": ShutOff, "paused": ShutOff, "stays": Running, "again": Running} {
		d, err := f.m.LookupByName(name)
		if err != nil {
			t.Fatal(err)
		}
		reason := RunningBooted
		if want == ShutOff {
			reason = ShutOffDestroyed
		}
		wantState(t, d, want, reason)
	}
	if _, err := f.m.LookupByName("transient"); err == nil {
		t.Error("the transient domain is still there")
	}
	if s, _ := f.store.Statuses(); len(s) != 2 {
		t.Errorf("%d records are left, want those of the two that run", len(s))
	}
}

// TestTransientsThatDied: those whose engines are gone are forgotten, while the records of others are still being read.
func TestTransientsThatDied(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	var engines []*fake.Engine
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		if _, err := f.m.CreateXML(bg, testXML(name, ""), 0); err != nil {
			t.Fatal(err)
		}
		engines = append(engines, f.drv.Engine(name))
	}
	f.m.Close()
	for _, e := range engines {
		e.Exit(driver.ExitCrashed, "signal: killed")
	}
	f.open()
	if left := f.m.List(0); len(left) != 0 {
		t.Errorf("%d domains are left", len(left))
	}
}

// TestAutodestroyEndsItsLifeOnly: the life that a client began, not one that came after it.
func TestAutodestroyEndsItsLifeOnly(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.define("a", "")
	var ids []int
	for _, flags := range []StartFlags{StartAutodestroy, 0, StartAutodestroy} {
		if err := d.Start(bg, flags); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.Ref().ID)
		if err := d.Autodestroy(bg, ids[0]+100); err != nil || !d.Active() {
			t.Errorf("life %d ended for another's client, %v", d.Ref().ID, err)
		}
		if flags == 0 {
			if err := d.Autodestroy(bg, d.Ref().ID); err != nil || !d.Active() {
				t.Errorf("a life without the flag ended, %v", err)
			}
		}
		if len(ids) < 3 {
			if err := d.Destroy(bg, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, id := range ids[:2] {
		if err := d.Autodestroy(bg, id); err != nil || !d.Active() {
			t.Errorf("the end of life %d's client ended life %d, %v", id, ids[2], err)
		}
	}
	if err := d.Autodestroy(bg, ids[2]); err != nil {
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
