package manager

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"virtd/domain"
	"virtd/driver"
	"virtd/driver/fake"
	"virtd/virterr"
)

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
		"Stats":   second(d.Stats(bg, 0, false)),
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
	if err := d.SetVCPUs(bg, 1, AffectLive); !virterr.Is(err, virterr.ConfigUnsupported) {
		t.Fatal(err)
	}
	if err := d.PinVCPU(bg, 1, []byte{0b1011}, AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
	if err := d.PinEmulator(bg, []byte{0b110}, AffectLive|AffectConfig); err != nil {
		t.Fatal(err)
	}
	if err := d.PinEmulator(bg, nil, AffectLive); !virterr.Is(err, virterr.InvalidArg) {
		t.Errorf("a pin to nothing: %v", err)
	}
	if pin := f.drv.Engine("a").Pin(-1); !cmp.Equal(pin, []byte{0b110}) {
		t.Errorf("other threads are pinned to %b", pin)
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
		if def, err := d.affected(flags); err != nil || def.EmulatorPin() != "1-2" {
			t.Error(def, err)
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

func TestStatsOfBackingImages(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	inst, live, err := d.engine()
	if err != nil {
		t.Fatal(err)
	}
	live, err = live.SetRuntime(domain.Runtime{Chains: map[string][]domain.BackingImage{
		"virtio-disk0": {{Path: "/img/mid.qcow2", Format: "qcow2"}, {Path: "/img/base.raw", Format: "raw"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for backing, want := range map[bool][]Param{
		false: {{"block.count", uint32(1)}, {"block.0.name", "vda"}, {"block.0.path", "/img/a.raw"}},
		true: {{"block.count", uint32(3)}, {"block.0.name", "vda"}, {"block.0.path", "/img/a.raw"}, {"block.0.backingIndex", uint32(1)},
			{"block.1.name", "vda"}, {"block.1.path", "/img/mid.qcow2"}, {"block.1.backingIndex", uint32(2)},
			{"block.2.name", "vda"}, {"block.2.path", "/img/base.raw"}, {"block.2.backingIndex", uint32(3)}},
	} {
		s := &statsList{}
		s.blocks(bg, d, inst, live, backing)
		var got []Param
		for _, p := range s.params {
			if p.Name == "block.count" || strings.HasSuffix(p.Name, ".name") || strings.HasSuffix(p.Name, ".path") || strings.HasSuffix(p.Name, "Index") {
				got = append(got, p)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("backing %v: %s", backing, diff)
		}
	}
}

func TestStats(t *testing.T) {
	f := newFixture(t, &fake.Driver{}, newMemStore())
	d := f.started("a", "")
	f.drv.Engine("a").SetGuestStats(map[driver.MemoryStat]uint64{driver.StatFree: 10 << 20, driver.StatTotal: 60 << 20})
	params, err := d.Stats(bg, 0, true)
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
		"dirtyrate.calc_status": int32(0), "dirtyrate.calc_start_time": int64(0), "dirtyrate.calc_period": int32(0), "dirtyrate.calc_mode": "page-sampling",
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
	_, err := f.m.CreateXML(bg, testXML("t", ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetAutostart(bg, true); err != nil {
		t.Fatal(err)
	}
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
