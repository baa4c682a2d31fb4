package firewalld

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func zonesOf(t *testing.T, b *fakeBus) *Zones {
	return &Zones{Record: filepath.Join(t.TempDir(), "firewalld.json"), Bus: b.address}
}

// apply does, and checks what is said of that and what firewalld has then.
func apply(t *testing.T, z *Zones, b *fakeBus, bridges map[string]string, done, state string) {
	t.Helper()
	got, running, err := z.Apply(bridges)
	if err != nil || !running {
		t.Fatalf("%v: running %v, %v", bridges, running, err)
	}
	if diff := cmp.Diff(done, strings.Join(got, "; ")); diff != "" {
		t.Errorf("%v: -want +got\n%s", bridges, diff)
	}
	if diff := cmp.Diff(state, b.state()); diff != "" {
		t.Errorf("%v: -want +got\n%s", bridges, diff)
	}
}

// TestZones: bridges are in the zone for guests, or in the one that the network names, once, until the network stops; what somebody
// else put somewhere stays there.
func TestZones(t *testing.T) {
	b := newBus(t, "public", "trusted", "libvirt", "lab")
	b.in = map[string]string{"eth0": "public", "virbr9": "public"}
	z := zonesOf(t, b)
	both := map[string]string{"virbr0": "", "virbr1": "lab", "virbr9": ""}
	const put = "map[eth0:public virbr0:libvirt virbr1:lab virbr9:public]"
	apply(t, z, b, both, "bridge virbr0 put into zone libvirt; bridge virbr1 put into zone lab", put)
	apply(t, z, b, both, "", put)
	apply(t, &Zones{Record: z.Record, Bus: b.address}, b, both, "", put) // the next virtd
	apply(t, z, b, map[string]string{"virbr0": "", "virbr1": "public"}, "bridge virbr1 removed from zone lab; bridge virbr1 put into zone public",
		"map[eth0:public virbr0:libvirt virbr1:public virbr9:public]")
	b.set(func() { b.in["virbr0"] = "trusted" }) // by somebody
	apply(t, z, b, both, "bridge virbr1 removed from zone public; bridge virbr1 put into zone lab",
		"map[eth0:public virbr0:trusted virbr1:lab virbr9:public]")
	b.set(func() { delete(b.in, "virbr1") }) // a reload
	apply(t, z, b, map[string]string{"virbr1": "lab"}, "bridge virbr1 put into zone lab", "map[eth0:public virbr0:trusted virbr1:lab virbr9:public]")
	apply(t, z, b, nil, "bridge virbr1 removed from zone lab", "map[eth0:public virbr0:trusted virbr9:public]")
	if _, err := os.Stat(z.Record); !os.IsNotExist(err) {
		t.Errorf("the record is left: %v", err)
	}
	b.set(func() { b.asked = nil })
	if done, running, err := z.Apply(nil); len(done) != 0 || running || err != nil || len(b.asked) != 0 {
		t.Errorf("with nothing to do %q, %v, %v, asked %q", done, running, err, b.asked)
	}
}

// TestZoneForGuests: where libvirt's zone is not installed, the one that accepts everything is taken.
func TestZoneForGuests(t *testing.T) {
	b := newBus(t, "public", "trusted")
	apply(t, zonesOf(t, b), b, map[string]string{"virbr0": ""}, "bridge virbr0 put into zone trusted", "map[virbr0:trusted]")
}

// TestZonesFail: what firewalld refuses is said, the rest is done, and nothing is remembered that was not done.
func TestZonesFail(t *testing.T) {
	b := newBus(t, "trusted")
	z := zonesOf(t, b)
	done, running, err := z.Apply(map[string]string{"virbr0": "nozone", "virbr1": ""})
	if !running || err == nil || !strings.Contains(err.Error(), "Unable to put bridge 'virbr0' into zone 'nozone' of firewalld: INVALID_ZONE") {
		t.Errorf("running %v, %v", running, err)
	}
	if !slices.Equal(done, []string{"bridge virbr1 put into zone trusted"}) {
		t.Errorf("done: %q", done)
	}
	record, err := os.ReadFile(z.Record)
	if err != nil || string(record) != `{"virbr1":"trusted"}` {
		t.Errorf("on record: %s, %v", record, err)
	}
	b.set(func() { b.refuse = "org.freedesktop.DBus.Error.AccessDenied: no" })
	if _, _, err := z.Apply(nil); err == nil || !strings.Contains(err.Error(), "Unable to take bridge 'virbr1' out of zone 'trusted'") {
		t.Errorf("refused: %v", err)
	}
	b.set(func() { b.refuse = ""; delete(b.in, "virbr1") }) // which somebody else did
	apply(t, z, b, nil, "bridge virbr1 removed from zone trusted", "map[]")
}

// TestNoFirewalld: without firewalld, a message bus or a readable record nothing is claimed.
func TestNoFirewalld(t *testing.T) {
	b := newBus(t, "trusted")
	z := zonesOf(t, b)
	apply(t, z, b, map[string]string{"virbr0": ""}, "bridge virbr0 put into zone trusted", "map[virbr0:trusted]")
	b.set(func() { b.running = false })
	if done, running, err := z.Apply(map[string]string{"virbr0": ""}); len(done) != 0 || running || err != nil {
		t.Errorf("firewalld does not run: %q, %v, %v", done, running, err)
	}
	if _, err := os.Stat(z.Record); !os.IsNotExist(err) {
		t.Errorf("the record outlives firewalld: %v", err)
	}
	z.Bus = "unix:path=" + filepath.Join(t.TempDir(), "none")
	if done, running, err := z.Apply(map[string]string{"virbr0": ""}); len(done) != 0 || running || err != nil {
		t.Errorf("no bus: %q, %v, %v", done, running, err)
	}
	if err := os.WriteFile(z.Record, []byte("[1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := z.Apply(nil); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a broken record: %v", err)
	}
}

// TestWatchZones: bridges are put into their zones again after firewalld was reloaded or started, and the watch ends.
func TestWatchZones(t *testing.T) {
	b := newBus(t, "trusted")
	z := zonesOf(t, b)
	ctx, cancel := context.WithCancel(context.Background())
	applied, ended := make(chan string, 10), make(chan bool)
	go func() {
		defer close(ended)
		z.Watch(ctx, func() {
			done, _, err := z.Apply(map[string]string{"virbr0": ""})
			applied <- fmt.Sprint(done, err)
		})
	}()
	const put = "[bridge virbr0 put into zone trusted] <nil>"
	expect := func(what, want string) {
		t.Helper()
		select {
		case got := <-applied:
			if got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nothing is done", what)
		}
	}
	expect("at the begin", put)
	b.set(func() { clear(b.in) })
	b.signal(busName, "Reloaded")
	expect("a reload", put)
	b.set(func() { clear(b.in); b.running = false })
	b.signal("org.freedesktop.DBus", "NameOwnerChanged", busName, ":1.7", "")
	b.signal("org.freedesktop.DBus", "NameOwnerChanged", "org.example", "", ":1.8")
	b.signal("org.freedesktop.DBus", "NameOwnerChanged", "malformed")
	b.set(func() { b.running = true })
	b.signal("org.freedesktop.DBus", "NameOwnerChanged", busName, "", ":1.9")
	expect("a start", put)
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the watch does not end")
	}
	if len(applied) != 0 {
		t.Errorf("more was done: %s", <-applied)
	}
}
