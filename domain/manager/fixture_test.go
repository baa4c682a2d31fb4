package manager

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"virtd/domain/store"
	"virtd/driver/fake"
	"virtd/virterr"
)

// fixture is a Manager over a fake driver and a store in memory, and the events it sent.
type fixture struct {
	t     *testing.T
	drv   *fake.Driver
	store store.Store
	saves string
	m     *Manager

	networks Networks
	volumes  Volumes

	mu     sync.Mutex
	events []Event
}

func newFixture(t *testing.T, drv *fake.Driver, st store.Store) *fixture {
	t.Helper()
	f := &fixture{t: t, drv: drv, store: st, saves: t.TempDir()}
	f.open()
	t.Cleanup(func() {
		if f.m != nil {
			f.m.Close()
		}
	})
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	m, err := New(Config{
		Driver: f.drv, Store: f.store, Networks: f.networks, Volumes: f.volumes, BootID: "boot", Log: slog.New(slog.DiscardHandler),
		JobTimeout: 5 * time.Second, CallTimeout: 5 * time.Second, QuitTimeout: 200 * time.Millisecond, SaveDir: f.saves,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.m = m
	m.Subscribe(func(e Event) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.events = append(f.events, e)
	})
	if err := m.Open(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

// replace lets go of the manager, as a kill would, and opens another one.
func (f *fixture) replace() {
	f.t.Helper()
	f.m.Close()
	f.mu.Lock()
	f.events = nil
	f.mu.Unlock()
	f.open()
}

func testXML(name, more string) string {
	return fmt.Sprintf(`<domain type='kvm'>
  <name>%s</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/vmlinuz</kernel></os>
  <features><acpi/><apic/></features>
  %s
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/img/%s.raw'/><target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <memballoon model='virtio'/>
  </devices>
</domain>`, name, more, name)
}

func (f *fixture) define(name, more string) *Domain {
	f.t.Helper()
	d, err := f.m.Define(context.Background(), testXML(name, more), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func (f *fixture) started(name, more string) *Domain {
	f.t.Helper()
	d := f.define(name, more)
	if err := d.Start(context.Background(), 0); err != nil {
		f.t.Fatal(err)
	}
	return d
}

// lifecycle waits until n lifecycle, reboot and balloon events came, and returns them as type,detail.
func (f *fixture) lifecycle(n int) []string {
	f.t.Helper()
	var list []string
	for range 500 {
		list = nil
		f.mu.Lock()
		for _, e := range f.events {
			switch e.Kind {
			case EventLifecycle:
				list = append(list, fmt.Sprintf("%d,%d", e.Type, e.Detail))
			case EventReboot:
				list = append(list, "reboot")
			case EventBalloon:
				list = append(list, fmt.Sprintf("balloon %d", e.Balloon))
			}
		}
		f.mu.Unlock()
		if len(list) >= n {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return list
}

func wantCode(t *testing.T, err error, code virterr.Code, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", text)
	}
	if !virterr.Is(err, code) || err.Error() != text {
		t.Fatalf("error %d %q, want %d %q", virterr.As(err).Code, err, code, text)
	}
}

func wantState(t *testing.T, d *Domain, state State, reason Reason) {
	t.Helper()
	var s State
	var r Reason
	for range 500 {
		if s, r = d.State(); s == state && r == reason {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("state %s/%d, want %s/%d", s, r, state, reason)
}
