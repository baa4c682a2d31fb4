package kvm_test

import (
	"strings"
	"testing"
	"time"

	"virtd/domain/manager"
	"virtd/driver"
	"virtd/virterr"
)

// codeBusy counts in each of the 4096 pages from 8 MiB on, without end.
const codeBusy = "bf00008000b900100000ff0781c700100000e2f6ebea"

// dirtyRate returns what domstats tells of a domain's dirty rate.
func dirtyRate(t *testing.T, d *manager.Domain) map[string]any {
	t.Helper()
	params, err := d.Stats(bg, manager.StatsDirtyRate, false)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	for _, p := range params {
		out[strings.TrimPrefix(p.Name, "dirtyrate.")] = p.Value
	}
	return out
}

// TestRealEngineDirtyRate: the confined engine measures in both modes, and the next virtd knows the result.
func TestRealEngineDirtyRate(t *testing.T) {
	h := newRealHost(t)
	d := h.guest("a", codeBusy, "")
	h.must(d.Start(bg, 0))
	if got := dirtyRate(t, d); len(got) != 4 || got["calc_status"] != int32(0) || got["calc_start_time"] != int64(0) {
		t.Errorf("before: %v", got)
	}
	for _, mode := range []driver.DirtyRateMode{driver.DirtyRateSampling, driver.DirtyRateBitmap} {
		h.must(d.StartDirtyRate(bg, time.Second, mode))
		if err := d.StartDirtyRate(bg, time.Second, mode); !virterr.Is(err, virterr.InternalError) || !strings.Contains(err.Error(), "already being measured") {
			t.Errorf("measured twice at a time: %v", err)
		}
		h.m.Close()
		h.open()
		var err error
		if d, err = h.m.LookupByName("a"); err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		for range 6000 { // the limit only ends a broken test
			if got = dirtyRate(t, d); got["calc_status"] == int32(2) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		// 16 MiB over at least a second
		rate, _ := got["megabytes_per_second"].(int64)
		if got["calc_mode"] != string(mode) || rate < 1 || rate > 16 || got["calc_start_time"] == int64(0) || got["calc_period"].(int32) < 1 {
			t.Errorf("%s: %v", mode, got)
		}
	}
	if err := d.StartDirtyRate(bg, time.Second, driver.DirtyRateRing); !virterr.Is(err, virterr.OperationUnsupported) {
		t.Errorf("dirty-ring: %v", err)
	}
	h.must(d.Destroy(bg, 0))
}

// TestEngineWithoutDirtyRate: an engine of before says nothing of its rate, and cannot measure it.
func TestEngineWithoutDirtyRate(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	if got := dirtyRate(t, d); len(got) != 0 {
		t.Errorf("told: %v", got)
	}
	if err := d.StartDirtyRate(bg, time.Second, driver.DirtyRateSampling); !virterr.Is(err, virterr.OperationUnsupported) {
		t.Errorf("error %v", err)
	}
}
