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
