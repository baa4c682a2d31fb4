package hypervisor

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block"
	"virtd/hypervisor/monitor"
	"virtd/hypervisor/virtio/blk"
)

// diskMachine is a machine with nothing but disks, with these limits.
func diskMachine(t *testing.T, throttles ...*Throttle) *Machine {
	t.Helper()
	m := &Machine{}
	for i, c := range throttles {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		img, err := block.Open(fd, block.Options{})
		if err != nil {
			t.Fatal(err)
		}
		dev, err := blk.New(img, blk.Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dev.Close() })
		enforced, err := newThrottle(c)
		if err != nil {
			t.Fatal(err)
		}
		m.devices.disks = append(m.devices.disks, disk{cfg: &Disk{ID: string(rune('a' + i))}, dev: dev})
		m.devices.join(i, c, enforced)
	}
	return m
}

// enforced tells, for each disk, the first disk that has the same throttle; -1 for none.
func (m *Machine) enforced() (out []int) {
	for _, d := range m.devices.disks {
		first := -1
		for k, other := range m.devices.disks {
			if d.limits.enforced != nil && other.limits.enforced == d.limits.enforced {
				first = k
				break
			}
		}
		out = append(out, first)
	}
	return out
}

func TestThrottleGroups(t *testing.T) {
	limit := func(group string, ops uint64) *Throttle {
		return &Throttle{Group: group, Limits: block.Limits{TotalOps: block.Rate{PerSecond: ops}}}
	}
	for _, c := range []struct {
		name  string
		start []*Throttle
		disk  string
		set   *Throttle
		want  []int
		ops   uint64 // of the first disk
	}{
		{"own limits", []*Throttle{limit("", 5), limit("", 5), nil}, "c", nil, []int{0, 1, -1}, 5},
		{"a group shares", []*Throttle{limit("g", 5), limit("g", 5), limit("h", 5)}, "c", nil, []int{0, 0, -1}, 5},
		{"a group changes as one", []*Throttle{limit("g", 5), limit("g", 5), limit("h", 5)}, "b", limit("g", 7), []int{0, 0, 2}, 7},
		{"one leaves a group", []*Throttle{limit("g", 5), limit("g", 5), limit("g", 5)}, "b", limit("", 7), []int{0, 1, 0}, 5},
		{"one joins a group", []*Throttle{limit("g", 5), nil, limit("h", 5)}, "b", limit("g", 5), []int{0, 0, 2}, 5},
		{"the last word counts", []*Throttle{limit("g", 5), limit("g", 6), nil}, "c", nil, []int{0, 0, -1}, 6},
		{"no limits", []*Throttle{limit("g", 5), limit("g", 5), nil}, "a", &Throttle{Group: "g"}, []int{-1, 1, -1}, 0},
	} {
		m := diskMachine(t, c.start...)
		if err := m.SetThrottle(c.disk, c.set); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got, _ := json.Marshal(m.enforced())
		if want, _ := json.Marshal(c.want); string(got) != string(want) {
			t.Errorf("%s: throttles %s, want %s", c.name, got, want)
		}
		if ops := m.devices.disks[0].limits.throttle.TotalOps.PerSecond; ops != c.ops {
			t.Errorf("%s: the first disk is at %d", c.name, ops)
		}
	}
}

func TestSetThrottleRefuses(t *testing.T) {
	c := control{diskMachine(t, nil)}
	if err := c.SetThrottle("z", json.RawMessage("null")); !errors.Is(err, monitor.ErrNotFound) {
		t.Errorf("no such disk: %v", err)
	}
	for _, text := range []string{`{"totalOps":{"perSecond":5},"newer":1}`, `{"totalOps":{"perSecond":-5}}`, `[]`,
		`{"totalOps":{"burst":5}}`, `{"totalBytes":{"perSecond":1},"readBytes":{"perSecond":1}}`} {
		if err := c.SetThrottle("a", json.RawMessage(text)); err == nil || c.devices.disks[0].limits.enforced != nil {
			t.Errorf("%s was accepted", text)
		}
	}
	if err := c.SetThrottle("a", json.RawMessage(`{"totalOps":{"perSecond":5,"burst":6,"seconds":7},"opBytes":4096}`)); err != nil {
		t.Error(err)
	}
}
