package manager

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"virtd/driver/fake"
	"virtd/virterr"
)

// plugged starts a domain with one vCPU of four, and lets a guest that keeps its vCPUs be waited for but shortly.
func plugged(t *testing.T, drv *fake.Driver) (*fixture, *Domain) {
	t.Helper()
	f := newFixture(t, drv, newMemStore())
	f.m.cfg.DetachWait = 50 * time.Millisecond
	xml := strings.Replace(testXML("a", ""), "<vcpu>2</vcpu>", "<vcpu current='1'>4</vcpu>", 1)
	d, err := f.m.Define(bg, xml, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(bg, 0); err != nil {
		t.Fatal(err)
	}
	return f, d
}

// wantVCPUs compares the numbers of the vCPUs that clients see, of the engine's threads and of the configuration.
func wantVCPUs(t *testing.T, d *Domain, live, config []int) {
	t.Helper()
	_, def, err := d.engine()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := d.definition()
	if err != nil {
		t.Fatal(err)
	}
	var threads []int
	infos, err := d.VCPUs(bg)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range infos {
		threads = append(threads, v.Number)
	}
	if got := def.OnlineVCPUs(); !slices.Equal(got, live) || !slices.Equal(threads, live) {
		t.Errorf("vCPUs %v, with threads %v, want %v", got, threads, live)
	}
	if got := stored.OnlineVCPUs(); !slices.Equal(got, config) {
		t.Errorf("the configuration has vCPUs %v, want %v", got, config)
	}
	if n := d.Info().VCPUs; n != len(live) {
		t.Errorf("%d vCPUs in the list, want %d", n, len(live))
	}
}

func TestSetVCPUsLive(t *testing.T) {
	f, d := plugged(t, &fake.Driver{})
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(d.PinVCPU(bg, 2, []byte{2}, AffectLive)) // takes effect when it comes
	step(d.SetVCPUs(bg, 3, AffectLive))
	wantVCPUs(t, d, []int{0, 1, 2}, []int{0})
	step(d.SetVCPUs(bg, 3, AffectLive)) // nothing to do
	step(d.SetVCPUs(bg, 2, AffectLive|AffectConfig))
	wantVCPUs(t, d, []int{0, 1}, []int{0, 1})
	step(d.SetVCPU(bg, []int{3}, true, AffectLive))
	step(d.SetVCPU(bg, []int{1}, false, AffectCurrent))
	wantVCPUs(t, d, []int{0, 3}, []int{0, 1})
	step(d.SetVCPU(bg, []int{1, 3}, true, AffectConfig))
	wantVCPUs(t, d, []int{0, 3}, []int{0, 1, 3})
	xml, err := d.XML(0)
	if err != nil || !strings.Contains(xml, "<vcpu placement='static' current='2'>4</vcpu>") ||
		!strings.Contains(xml, "<vcpu id='3' enabled='yes' hotpluggable='yes' order='2'/>") {
		t.Errorf("%v\n%s", err, xml)
	}
	stats, err := d.Stats(bg, StatsVCPU, false)
	if err != nil || !slices.Contains(stats, Param{"vcpu.current", uint32(2)}) || !slices.ContainsFunc(stats, func(p Param) bool { return p.Name == "vcpu.3.time" }) {
		t.Errorf("%v, %v", stats, err)
	}
	f.replace() // the record has them
	d, err = f.m.LookupByName("a")
	step(err)
	wantVCPUs(t, d, []int{0, 3}, []int{0, 1, 3})
}

func TestSetVCPUsRefused(t *testing.T) {
	_, d := plugged(t, &fake.Driver{})
	if err := d.SetVCPUs(bg, 2, AffectLive); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		code virterr.Code
		want string
	}{
		{d.SetVCPUs(bg, 5, AffectLive), virterr.InvalidArg, "invalid argument: requested vcpus is greater than max allowable vcpus for the live domain: 5 > 4"},
		{d.SetVCPUs(bg, 5, AffectConfig), virterr.InvalidArg, "invalid argument: requested vcpus is greater than max allowable vcpus for the persistent domain: 5 > 4"},
		{d.SetVCPUs(bg, 4, AffectLive|AffectConfig|VCPUMaximum), virterr.OperationInvalid, "Requested operation is not valid: maximum vcpu count of a live domain can't be modified"},
		{d.SetVCPUs(bg, 1, AffectLive|VCPUGuest), virterr.ArgumentUnsupported, "argument unsupported: QEMU guest agent is not configured"},
		{d.SetVCPU(bg, nil, true, 0), virterr.InvalidArg, "invalid argument: no vcpus selected for modification"},
		{d.SetVCPU(bg, []int{4}, true, AffectLive), virterr.InvalidArg, "invalid argument: vcpu 4 is not present in live config"},
		{d.SetVCPU(bg, []int{4}, true, AffectConfig), virterr.InvalidArg, "invalid argument: vcpu 4 is not present in persistent config"},
		{d.SetVCPU(bg, []int{1}, true, AffectLive), virterr.InvalidArg, "invalid argument: vcpu '1' is already in requested state"},
		{d.SetVCPU(bg, []int{0}, false, AffectLive), virterr.InvalidArg, "invalid argument: vcpu '0' can't be hotunplugged"},
		{d.SetVCPU(bg, []int{0}, false, AffectConfig), virterr.InvalidArg, "invalid argument: vCPU '0' can't be modified"},
		{d.SetVCPU(bg, []int{2, 3}, true, AffectLive), virterr.OperationUnsupported, "Operation not supported: only one hotpluggable entity can be selected"},
		{d.SetVCPU(bg, []int{1}, true, 64), virterr.InvalidArg, "invalid argument: unsupported flags (0x40) in function qemuDomainSetVcpu"},
	} {
		wantCode(t, c.err, c.code, c.want)
	}
	wantVCPUs(t, d, []int{0, 1}, []int{0})
}

// What a domain was defined with before this machine version stays as it was.
func TestSetVCPUsOlderMachine(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	xml := strings.NewReplacer("<vcpu>2</vcpu>", "<vcpu current='1'>4</vcpu>", "'q35'", "'pc-q35-virtd-1.0'").Replace(testXML("a", ""))
	d, err := f.m.CreateXML(bg, xml, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetVCPUs(bg, 2, AffectLive); !virterr.Is(err, virterr.OperationUnsupported) || !strings.Contains(err.Error(), "pc-q35-virtd-1.1") {
		t.Error(err)
	}
}

// A guest that keeps a vCPU, says so, or lets it go after its time.
func TestGuestKeepsItsVCPU(t *testing.T) {
	f, d := plugged(t, &fake.Driver{})
	if err := d.SetVCPUs(bg, 4, AffectLive); err != nil {
		t.Fatal(err)
	}
	e := f.drv.Engine("a")
	e.Cling(true)
	wantCode(t, d.SetVCPUs(bg, 3, AffectLive|AffectConfig), virterr.OperationFailed, "operation failed: detach of device 'vcpu3' was rejected by the guest")
	if got := f.devices(1); !slices.Equal(got, []string{"kept vcpu3"}) {
		t.Errorf("events %v", got)
	}
	wantVCPUs(t, d, []int{0, 1, 2, 3}, []int{0})
	e.Cling(false)
	wantCode(t, d.SetVCPUs(bg, 3, AffectLive), virterr.OperationTimeout,
		"Timed out during operation: vcpu unplug request timed out. Unplug result must be manually inspected in the domain")
	wantVCPUs(t, d, []int{0, 1, 2, 3}, []int{0})
	e.YieldVCPU(3)
	e.YieldVCPU(1) // nobody asked for this one
	wantVCPUs(t, d, []int{0, 2}, []int{0})
	f.replace()
	d, err := f.m.LookupByName("a")
	if err != nil {
		t.Fatal(err)
	}
	wantVCPUs(t, d, []int{0, 2}, []int{0})
}

// An engine that got a vCPU, or lost one, while no virtd noted it: the next one finds the right number.
func TestVCPUsAfterVirtdDied(t *testing.T) {
	drv := &fake.Driver{}
	f, d := plugged(t, drv)
	drv.OnCall = func(_ context.Context, _ *fake.Engine, method string) error {
		if method == "PluggedVCPU" {
			return errors.New("no answer")
		}
		return nil
	}
	if err := d.SetVCPUs(bg, 2, AffectLive); err == nil {
		t.Fatal("an answer that did not come was taken for one")
	}
	f.replace()
	d, err := f.m.LookupByName("a")
	if err != nil {
		t.Fatal(err)
	}
	wantVCPUs(t, d, []int{0, 1}, []int{0})
	f.m.Close()
	drv.Engine("a").YieldVCPU(1)
	f.open()
	if d, err = f.m.LookupByName("a"); err != nil {
		t.Fatal(err)
	}
	wantVCPUs(t, d, []int{0}, []int{0})
}

// A vCPU that goes while the live definition changes for another reason is gone.
func TestVCPUGoesDuringAnotherChange(t *testing.T) {
	drv := &fake.Driver{}
	f, d := plugged(t, drv)
	if err := d.SetVCPUs(bg, 2, AffectLive); err != nil {
		t.Fatal(err)
	}
	drv.OnCall = func(_ context.Context, e *fake.Engine, method string) error {
		if method == "SetBalloon" {
			e.YieldVCPU(1)
		}
		return nil
	}
	if err := d.SetMemory(bg, 40000, AffectLive); err != nil {
		t.Fatal(err)
	}
	wantVCPUs(t, d, []int{0}, []int{0})
	_ = f
}

// A domain is saved with the vCPUs that it has, and restored with them.
func TestSaveWithPluggedVCPUs(t *testing.T) {
	f, d := plugged(t, &fake.Driver{})
	for _, err := range []error{d.SetVCPUs(bg, 3, AffectLive), d.SetVCPU(bg, []int{1}, false, AffectLive)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	image := t.TempDir() + "/image"
	if err := d.Save(bg, image, "", 0); err != nil {
		t.Fatal(err)
	}
	if err := f.m.Restore(bg, image, "", 0); err != nil {
		t.Fatal(err)
	}
	wantVCPUs(t, d, []int{0, 2}, []int{0})
}
