package dirtylog

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"virtd/hypervisor/kvm"
	"virtd/hypervisor/memory"
)

// fakeSlots is a virtual machine whose vCPUs wrote what the test says.
type fakeSlots struct {
	mu     sync.Mutex
	flags  map[int]uint32
	wrote  map[int][]uint64 // pages, by slot
	refuse int              // slot that cannot be logged; -1 for none
}

func newSlots() *fakeSlots {
	return &fakeSlots{flags: map[int]uint32{}, wrote: map[int][]uint64{}, refuse: -1}
}

func (f *fakeSlots) SetMemory(slot int, _ uint64, host []byte, flags uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slot == f.refuse && flags != 0 {
		return errors.New("no memory for the log")
	}
	if len(host) == 0 {
		return errors.New("the slot was taken away")
	}
	f.flags[slot] = flags
	return nil
}

func (f *fakeSlots) DirtyLog(slot int, bitmap []uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flags[slot]&kvm.MemLogDirty == 0 {
		return errors.New("the slot has no log")
	}
	clear(bitmap)
	for _, page := range f.wrote[slot] {
		bitmap[page/64] |= 1 << (page % 64)
	}
	f.wrote[slot] = nil
	return nil
}

// fakeSource is a device that keeps its own record, by guest page number, as a container of passed-through devices does.
type fakeSource struct {
	calls        []string
	wrote        map[uint64]bool
	refuse, lost error
}

func (f *fakeSource) StartDirtyLog() error {
	f.calls = append(f.calls, "start")
	f.wrote = map[uint64]bool{}
	return f.refuse
}

func (f *fakeSource) StopDirtyLog() error { f.calls = append(f.calls, "stop"); return nil }

func (f *fakeSource) ReadDirty(gpa, pages uint64, bitmap []uint64) error {
	for page := range pages {
		if at := gpa/memory.PageSize + page; f.wrote[at] {
			bitmap[page/64] |= 1 << (page % 64)
			delete(f.wrote, at)
		}
	}
	return f.lost
}

// newTracker has RAM of 100 pages at 0 and 4 at 1 MiB.
func newTracker(t *testing.T) (*Tracker, *fakeSlots, *memory.Memory) {
	t.Helper()
	mem, err := memory.New(memory.Backing{Kind: memory.Anonymous}, memory.Range{Size: 100 * memory.PageSize}, memory.Range{GPA: 1 << 20, Size: 4 * memory.PageSize})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	slots := newSlots()
	tr, err := New(slots, mem)
	if err != nil {
		t.Fatal(err)
	}
	return tr, slots, mem
}

// read lists the pages that Read tells, as hexadecimal numbers.
func read(t *testing.T, tr *Tracker) string {
	t.Helper()
	var out []string
	if err := tr.Read(func(gpa uint64, bitmap []uint64) {
		for i := range uint64(len(bitmap) * 64) {
			if bitmap[i/64]>>(i%64)&1 != 0 {
				out = append(out, fmt.Sprintf("%x", gpa/memory.PageSize+i))
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func (f *fakeSlots) wantFlags(t *testing.T, want uint32) {
	t.Helper()
	for slot := range 2 {
		if got, ok := f.flags[slot]; !ok || got != want {
			t.Errorf("slot %d has flags %d, want %d", slot, got, want)
		}
	}
}

// TestUnion: a page counts whoever wrote it, once, and is told once.
func TestUnion(t *testing.T) {
	tr, slots, mem := newTracker(t)
	slots.wantFlags(t, 0)
	dev := &fakeSource{}
	tr.Add("hostdev0", dev)
	mem.MarkDirty(7*memory.PageSize, 1) // nothing records yet
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	slots.wantFlags(t, kvm.MemLogDirty)
	if got := read(t, tr); got != "" {
		t.Errorf("before anything was written: %s", got)
	}
	slots.wrote = map[int][]uint64{0: {1, 99}, 1: {3}}
	mem.MarkDirty(memory.PageSize, 2*memory.PageSize)
	dev.wrote = map[uint64]bool{2: true, 64: true, 0x100: true}
	if got, want := read(t, tr), "1 2 40 63 100 103"; got != want {
		t.Errorf("pages %s, want %s", got, want)
	}
	if got := read(t, tr); got != "" {
		t.Errorf("told twice: %s", got)
	}
	if err := tr.Stop(); err != nil {
		t.Fatal(err)
	}
	slots.wantFlags(t, 0)
	if err := tr.Read(nil); err == nil {
		t.Error("read after the end")
	}
	if err := tr.Stop(); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
	if got := strings.Join(dev.calls, " "); got != "start stop" {
		t.Errorf("the device was told %q", got)
	}
	if mem.TakeDirty(0) != nil {
		t.Error("the host's writes are still recorded")
	}
	tr.Close()
	if err := tr.Start(); err == nil {
		t.Error("started after the end of the machine")
	}
}

// TestStartFails: who cannot tell is named, and nothing records.
func TestStartFails(t *testing.T) {
	tr, slots, mem := newTracker(t)
	good, bad := &fakeSource{}, &fakeSource{refuse: errors.New("knows no log")}
	tr.Add("net0", good)
	tr.Add("net1", bad)
	tr.Add("disk0", &fakeSource{refuse: errors.New("never asked")})
	if err := tr.Start(); err == nil || !strings.Contains(err.Error(), "net1: knows no log") {
		t.Errorf("error %v", err)
	}
	slots.wantFlags(t, 0)
	if got := strings.Join(good.calls, " "); got != "start stop" {
		t.Errorf("net0 was told %q", got)
	}
	if got := strings.Join(bad.calls, " "); got != "start" {
		t.Errorf("net1 was told %q", got)
	}
	if mem.TakeDirty(0) != nil {
		t.Error("the host's writes are recorded")
	}
	tr.Remove("net1")
	tr.Remove("disk0")
	if slots.refuse = 1; tr.Start() == nil {
		t.Error("started without a slot's log")
	}
	slots.wantFlags(t, 0)
	slots.refuse = -1
	if err := tr.Start(); err != nil {
		t.Error(err)
	}
	if err := tr.Start(); !errors.Is(err, ErrActive) {
		t.Errorf("started twice: %v", err)
	}
}

// TestComeAndGo: devices that are plugged and unplugged meanwhile are part of the record, or the record says what it misses.
func TestComeAndGo(t *testing.T) {
	tr, _, _ := newTracker(t)
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	dev := &fakeSource{}
	tr.Add("net0", dev)
	dev.wrote[5] = true
	tr.Remove("net0")
	tr.Remove("net0")
	dev.wrote[6] = true // it is none of ours any more
	if got := read(t, tr); got != "5" {
		t.Errorf("pages %q of a device that came and went", got)
	}
	if got := strings.Join(dev.calls, " "); got != "start stop" {
		t.Errorf("it was told %q", got)
	}

	tr.Add("net1", &fakeSource{refuse: errors.New("knows no log")})
	if err := tr.Read(nil); err == nil || !strings.Contains(err.Error(), "net1: knows no log") {
		t.Errorf("a record that misses net1: %v", err)
	}
	tr.Remove("net1") // what it wrote is missing all the same
	if err := tr.Read(nil); err == nil {
		t.Error("a record that misses what net1 wrote")
	}
	if err := tr.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, tr); got != "" {
		t.Errorf("pages %q of the last record", got)
	}

	gone := &fakeSource{lost: errors.New("device lost")}
	tr.Add("net2", gone)
	tr.Remove("net2")
	if err := tr.Read(nil); err == nil || !strings.Contains(err.Error(), "net2: read what it wrote: device lost") {
		t.Errorf("a record that misses what net2 wrote: %v", err)
	}
}

// TestReadFails: what was gathered before the failure is not lost.
func TestReadFails(t *testing.T) {
	tr, slots, _ := newTracker(t)
	dev := &fakeSource{}
	tr.Add("net0", dev)
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	dev.wrote[1], dev.lost = true, errors.New("busy")
	if err := tr.Read(nil); err == nil || !strings.Contains(err.Error(), "net0") {
		t.Errorf("error %v", err)
	}
	dev.lost = nil
	slots.wrote[0] = []uint64{2}
	if got := read(t, tr); got != "1 2" {
		t.Errorf("pages %q", got)
	}
}

// TestConcurrent: whoever comes at the same time waits; the race detector looks on.
func TestConcurrent(t *testing.T) {
	tr, slots, mem := newTracker(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				name := fmt.Sprint("net", i)
				tr.Add(name, &fakeSource{})
				if err := tr.Start(); err != nil && !errors.Is(err, ErrActive) {
					t.Error(err)
				}
				mem.MarkDirty(uint64(i)*memory.PageSize, 1)
				if err := tr.Read(func(uint64, []uint64) {}); err != nil && !errors.Is(err, errStopped) {
					t.Error(err)
				}
				tr.Remove(name)
				if err := tr.Stop(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	slots.wantFlags(t, 0)
}
