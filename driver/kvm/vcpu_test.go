package kvm_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"virtd/domain/manager"
	"virtd/virterr"
)

// startVCPUs starts a domain with one vCPU of four, of which the last is bound to host CPU 0.
func (h *host) startVCPUs() *manager.Domain {
	h.t.Helper()
	xml := strings.Replace(h.xml("a", ""), "<vcpu>1</vcpu>", "<vcpu current='1'>4</vcpu><cputune><vcpupin vcpu='3' cpuset='0'/></cputune>", 1)
	d, err := h.m.CreateXML(bg, xml, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

// untilVCPUs waits until clients see these vCPUs, each with a thread.
func untilVCPUs(t *testing.T, d *manager.Domain, want ...int) {
	t.Helper()
	var have []int
	for range 2000 {
		have = nil
		infos, err := d.VCPUs(bg)
		for _, v := range infos {
			have = append(have, v.Number)
		}
		if err == nil && slices.Equal(have, want) && d.Info().VCPUs == len(want) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("vCPUs %v (%d), want %v", have, d.Info().VCPUs, want)
}

func TestVCPUsComeAndGo(t *testing.T) {
	h := newHost(t)
	d := h.startVCPUs()
	for _, err := range []error{d.SetVCPUs(bg, 2, manager.AffectLive), d.SetVCPU(bg, []int{3}, true, manager.AffectLive)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	untilVCPUs(t, d, 0, 1, 3)
	infos, err := d.VCPUs(bg)
	if err != nil || infos[2].Affinity[0] != 1 {
		t.Errorf("the last vCPU may run on %v (%v)", infos[2].Affinity, err)
	}
	if err := d.SetVCPU(bg, []int{1}, false, manager.AffectLive); err != nil {
		t.Fatal(err)
	}
	untilVCPUs(t, d, 0, 3)
	// one goes while the monitor is away, and one while virtd is
	if err := d.SetVCPUs(bg, 4, manager.AffectLive); err != nil {
		t.Fatal(err)
	}
	monitor := func(command string) { _, _ = d.Monitor(bg, command, true) }
	monitor("eject 2")
	monitor("drop")
	untilVCPUs(t, d, 0, 1, 3)
	monitorUntil(t, d)
	monitor("eject 1")
	h.m.Close()
	h.open()
	if d, err = h.m.LookupByName("a"); err != nil {
		t.Fatal(err)
	}
	untilVCPUs(t, d, 0, 3)
	monitor("cling")
	if err := d.SetVCPUs(bg, 1, manager.AffectLive); !virterr.Is(err, virterr.OperationFailed) || !strings.Contains(err.Error(), "'vcpu3' was rejected by the guest") {
		t.Errorf("got %v", err)
	}
	if err := d.SetVCPUs(bg, 3, manager.AffectLive); err == nil || !strings.Contains(err.Error(), "the guest is busy") {
		t.Errorf("got %v", err)
	}
	untilVCPUs(t, d, 0, 3)
}

// A device that comes after virtd gave its attachment up is taken away again when virtd learns of it.
func TestDeviceThatComesTooLate(t *testing.T) {
	h := newHost(t)
	d := h.start("a")
	if _, err := d.Monitor(bg, "late virtio-disk7", true); err != nil {
		t.Fatal(err)
	}
	_, _ = d.Monitor(bg, "drop", true)
	monitorUntil(t, d)
	for range 2000 {
		if answer, err := d.Monitor(bg, `{"execute":"x-virtd-devices"}`, false); err == nil && !strings.Contains(answer, "virtio-disk7") {
			if !strings.Contains(answer, "virtio-disk0") {
				t.Errorf("devices that are known went too: %s", answer)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the device stays")
}
