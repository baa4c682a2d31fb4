package dirtyrate

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
)

// fakeLog is a record of what the test says.
type fakeLog struct {
	mu      sync.Mutex
	calls   []string
	refuse  error
	lost    error
	bitmaps [][]uint64
	slow    chan struct{} // Start sends, and returns when it receives
}

func (f *fakeLog) say(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, s)
}

func (f *fakeLog) Start() error {
	f.say("start")
	if f.slow != nil {
		f.slow <- struct{}{}
		<-f.slow
	}
	return f.refuse
}
func (f *fakeLog) Stop() error { f.say("stop"); return nil }
func (f *fakeLog) Read(visit func(uint64, []uint64)) error {
	f.say("read")
	for _, b := range f.bitmaps {
		visit(0, b)
	}
	return f.lost
}

func (f *fakeLog) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, " ")
}

func newMeter(t *testing.T, log *fakeLog) (*Meter, *memory.Memory, *[]string) {
	t.Helper()
	mem, err := memory.New(memory.Backing{Kind: memory.Anonymous}, memory.Range{Size: 24 << 20}, memory.Range{GPA: 1 << 32, Size: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	m := New(mem, log, func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) })
	t.Cleanup(func() { m.Close(); mem.Close() })
	return m, mem, &lines
}

// TestRefused: each wrong request has QEMU's text, and changes nothing.
func TestRefused(t *testing.T) {
	log := &fakeLog{refuse: errors.New("net0 cannot tell")}
	m, _, _ := newMeter(t, log)
	for _, c := range []struct {
		r    Request
		text string
	}{
		{Request{}, "Calculation time is out of range [50ms, 60000ms]."},
		{Request{Period: 49 * time.Millisecond}, "out of range [50ms, 60000ms]"},
		{Request{Period: time.Minute + 1}, "out of range [50ms, 60000ms]"},
		{Request{Period: -time.Second}, "out of range [50ms, 60000ms]"},
		{Request{Period: time.Second, SamplePages: 127}, "sample-pages is out of range[128, 16384]."},
		{Request{Period: time.Second, SamplePages: 16385}, "sample-pages is out of range[128, 16384]."},
		{Request{Period: time.Second, SamplePages: -1}, "sample-pages is out of range[128, 16384]."},
		{Request{Period: time.Second, SamplePages: 512, Mode: DirtyBitmap}, "sample-pages is used only in page-sampling mode"},
		{Request{Period: time.Second, Mode: DirtyRing}, "mode dirty-ring is not enabled, use other method instead."},
		{Request{Period: time.Second, Mode: "x"}, "Parameter 'mode' does not accept value 'x'"},
		{Request{Period: time.Second, Mode: DirtyBitmap}, "net0 cannot tell"},
	} {
		if err := m.Start(c.r); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v, want %q", c.r, err, c.text)
		}
		if got := m.Result(); got != (Result{Status: Unstarted, Mode: PageSampling}) {
			t.Errorf("%+v: result %+v", c.r, got)
		}
	}
	if got := log.said(); got != "start" {
		t.Errorf("the record was told %q", got)
	}
}

// TestDirtyBitmap: each page counts once, and the rate is over the time that it took.
func TestDirtyBitmap(t *testing.T) {
	log := &fakeLog{bitmaps: [][]uint64{{0, 1<<63 | 1}, {7}}}
	m, _, _ := newMeter(t, log)
	before := time.Now()
	if err := m.Start(Request{Mode: DirtyBitmap, Period: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if got := m.Result(); got.Status != Measuring && got.Status != Measured || got.Period < 50*time.Millisecond || got.Start.Before(before) {
		t.Errorf("under way: %+v", got)
	}
	m.work.Wait()
	got := m.Result()
	if got.Status != Measured || got.Mode != DirtyBitmap || got.Period < 50*time.Millisecond || got.SamplePages != 0 {
		t.Errorf("result %+v", got)
	}
	if want := 5 * memory.PageSize * 1000 / uint64(got.Period.Milliseconds()); got.Rate != want {
		t.Errorf("rate %d, want %d", got.Rate, want)
	}
	if got := log.said(); got != "start read stop" {
		t.Errorf("the record was told %q", got)
	}
}

// TestSampling: pages are told apart by what they hold.
func TestSampling(t *testing.T) {
	m, mem, _ := newMeter(t, &fakeLog{})
	r := &Result{Period: MinPeriod, Start: time.Now(), SamplePages: MaxSamplePages}
	if bytes, err := m.sample(r); err != nil || bytes != 0 {
		t.Errorf("%d bytes changed of a guest that does nothing: %v", bytes, err)
	}
	s := pick(mem.Regions(), mem.Size(), MaxSamplePages)
	if err := s.look(m, func(i int, hash uint64) { s.hash[i] = hash }); err != nil {
		t.Fatal(err)
	}
	for gpa := uint64(0); gpa < 12<<20; gpa += memory.PageSize { // 12 of 32 MiB: 192 of 512 pages
		if err := mem.WriteAt([]byte{1}, gpa+4095); err != nil {
			t.Fatal(err)
		}
	}
	changed := 0
	if err := s.look(m, func(i int, hash uint64) {
		if hash != s.hash[i] {
			changed++
		}
	}); err != nil {
		t.Fatal(err)
	}
	if changed != 192 {
		t.Errorf("%d of %d pages changed, want 192", changed, len(s.gpa))
	}
}

// TestPick: one page of each part of RAM, none twice, none outside.
func TestPick(t *testing.T) {
	for _, sizes := range [][]uint64{{1}, {3, 1}, {8 << 10, 1, 2 << 10, 777}, {64 << 10}} {
		var regions []memory.Region
		pages, gpa := uint64(0), uint64(0)
		for _, n := range sizes {
			regions = append(regions, memory.Region{GPA: gpa, Size: n * memory.PageSize})
			pages += n
			gpa += n*memory.PageSize + 1<<30
		}
		for _, per := range []int{MinSamplePages, DefaultSamplePages, MaxSamplePages} {
			s := pick(regions, pages*memory.PageSize, per)
			if want := max(pages*memory.PageSize*uint64(per)>>30, 1); uint64(len(s.gpa)) != want {
				t.Errorf("%v: %d pages, want %d", sizes, len(s.gpa), want)
			}
			for i, gpa := range s.gpa {
				inside := false
				for _, r := range regions {
					inside = inside || gpa >= r.GPA && gpa-r.GPA < r.Size
				}
				if !inside || gpa%memory.PageSize != 0 || i > 0 && gpa <= s.gpa[i-1] {
					t.Fatalf("%v: page %d at %#x", sizes, i, gpa)
				}
			}
		}
	}
	if got := share(1<<34, 1<<30, 1<<30); got != 1<<34 {
		t.Errorf("share of 64 TiB: %#x", got)
	}
}

// TestFailure: what cannot be measured has no rate, and the next measurement is one again.
func TestFailure(t *testing.T) {
	log := &fakeLog{lost: errors.New("net1, which came meanwhile, cannot tell")}
	m, _, lines := newMeter(t, log)
	if err := m.Start(Request{Mode: DirtyBitmap, Period: MinPeriod}); err != nil {
		t.Fatal(err)
	}
	m.work.Wait()
	if got := m.Result(); got.Status != Unstarted || got.Rate != 0 {
		t.Errorf("result %+v", got)
	}
	if len(*lines) != 1 || !strings.Contains((*lines)[0], "net1") {
		t.Errorf("log %q", *lines)
	}
	if got := log.said(); got != "start read stop" {
		t.Errorf("the record was told %q", got)
	}
	if err := m.Start(Request{Period: MinPeriod}); err != nil {
		t.Fatal(err)
	}
	m.work.Wait()
	if got := m.Result(); got.Status != Measured || got.SamplePages != DefaultSamplePages {
		t.Errorf("result %+v", got)
	}
}

// TestLostPage: a page that the host cannot give ends the measurement and not the engine.
func TestLostPage(t *testing.T) {
	host, err := unix.Mmap(-1, 0, 16<<20, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(host)
	mem, err := memory.FromRegions(memory.Region{Size: 16 << 20, Host: host, File: -1})
	if err != nil {
		t.Fatal(err)
	}
	m := New(mem, &fakeLog{}, func(string, ...any) {})
	if _, err := m.sample(&Result{Period: MinPeriod, SamplePages: DefaultSamplePages}); err == nil || !strings.Contains(err.Error(), "guest memory") {
		t.Errorf("error %v", err)
	}
}

// TestClose: the machine ends while something is measured.
func TestClose(t *testing.T) {
	for _, mode := range []Mode{PageSampling, DirtyBitmap} {
		log := &fakeLog{}
		m, _, lines := newMeter(t, log)
		if err := m.Start(Request{Mode: mode, Period: MaxPeriod}); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(Request{Period: MaxPeriod}); !errors.Is(err, ErrMeasuring) {
			t.Errorf("%s: started twice: %v", mode, err)
		}
		m.Close()
		m.Close()
		if got := m.Result(); got.Status != Unstarted {
			t.Errorf("%s: result %+v", mode, got)
		}
		if err := m.Start(Request{Period: MaxPeriod}); err == nil {
			t.Errorf("%s: started after the end", mode)
		}
		if mode == DirtyBitmap && log.said() != "start stop" {
			t.Errorf("the record was told %q", log.said())
		}
		if len(*lines) != 0 {
			t.Errorf("%s: log %q", mode, *lines)
		}
	}
}

// TestSlowStart: while a record begins, which waits for devices of other processes, the last result is told, nothing else begins,
// and the end of the machine waits for it.
func TestSlowStart(t *testing.T) {
	log := &fakeLog{slow: make(chan struct{})}
	m, _, _ := newMeter(t, log)
	started, closed := make(chan error), make(chan struct{})
	go func() { started <- m.Start(Request{Mode: DirtyBitmap, Period: MaxPeriod}) }()
	<-log.slow
	if got := m.Result(); got.Status != Unstarted {
		t.Errorf("result %+v", got)
	}
	if err := m.Start(Request{Period: MinPeriod}); !errors.Is(err, ErrMeasuring) {
		t.Errorf("another: %v", err)
	}
	go func() { m.Close(); close(closed) }()
	<-m.closed
	select {
	case <-closed:
		t.Error("closed while a record begins")
	default:
	}
	log.slow <- struct{}{}
	if err := <-started; err != nil {
		t.Error(err)
	}
	<-closed
	if got := log.said(); got != "start stop" || m.Result().Status != Unstarted {
		t.Errorf("the record was told %q, result %+v", got, m.Result())
	}
}
