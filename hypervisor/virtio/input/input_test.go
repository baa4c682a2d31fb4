package input

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

const (
	eventsAt = 0x1000 // rings
	statusAt = 0x4000
	bufAt    = 0x10000
)

// rig is a keyboard with a driver that has room for events.
type rig struct {
	t      *testing.T
	mem    *memory.Memory
	dev    *Device
	events *virtiotest.Ring
	status *virtiotest.Ring
	tr     *virtiotest.Transport
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, mem: virtiotest.NewMemory(t, 1<<20), dev: New(Config{Name: "input0"})}
	r.events, r.status = virtiotest.NewRing(t, r.mem, eventsAt, queueSize), virtiotest.NewRing(t, r.mem, statusAt, queueSize)
	r.tr = virtiotest.NewTransport(t, r.mem, r.dev.Features(), r.events, r.status)
	if err := r.dev.Activate(r.tr.Env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.dev.Reset() })
	return r
}

// room gives the device buffers for n events.
func (r *rig) room(n int) {
	for range n {
		r.events.Add(virtiotest.Buf{GPA: bufAt, Len: eventSize, Write: true})
	}
	r.events.Kick()
}

// typed waits until the driver has the events of so many changes of keys, and returns them.
func (r *rig) typed(changes int) string {
	r.t.Helper()
	var out []string
	for range changes {
		r.events.Add(virtiotest.Buf{GPA: bufAt, Len: eventSize, Write: true})
		r.events.Kick()
		r.events.WaitUsed(r.t)
		var b [eventSize]byte
		r.mem.ReadAt(b[:], bufAt)
		sign := "-"
		if v := binary.LittleEndian.Uint32(b[4:]); v == 1 {
			sign = "+"
		} else if v != 0 {
			sign = "?"
		}
		if k := binary.LittleEndian.Uint16(b[0:]); k != evKey {
			r.t.Fatalf("event of type %d", k)
		}
		out = append(out, fmt.Sprint(sign, binary.LittleEndian.Uint16(b[2:])))
		r.events.Add(virtiotest.Buf{GPA: bufAt, Len: eventSize, Write: true})
		r.events.Kick()
		r.events.WaitUsed(r.t)
		if r.mem.ReadAt(b[:], bufAt); !bytes.Equal(b[:], make([]byte, eventSize)) {
			r.t.Fatalf("after %v: %v is no report", out, b)
		}
	}
	return strings.Join(out, " ")
}

func TestPress(t *testing.T) {
	r := newRig(t)
	if err := r.dev.Press([]uint16{29, 56, 111}, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.dev.Press([]uint16{30}, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.dev.Press([]uint16{30}, 0); err != nil {
		t.Fatal(err)
	}
	if got := r.typed(10); got != "+29 +56 +111 -111 -56 -29 +30 -30 +30 -30" {
		t.Errorf("typed %s", got)
	}
	r.room(4) // before the keys
	begin := time.Now()
	if err := r.dev.Press([]uint16{2}, 80*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		r.events.WaitUsed(t)
	}
	if held := time.Since(begin); held < 80*time.Millisecond {
		t.Errorf("held for %v", held)
	}
}

func TestPressRefused(t *testing.T) {
	d := New(Config{Name: "input0"})
	if err := d.Press([]uint16{30}, 0); !errors.Is(err, ErrNoDriver) {
		t.Errorf("without a driver: %v", err)
	}
	r := newRig(t)
	for _, keys := range [][]uint16{nil, make([]uint16, 17), {0}, {MaxKey + 1}, {30, 0x8000}} {
		if r.dev.Press(keys, 0) == nil {
			t.Errorf("pressed %v", keys)
		}
	}
	if r.dev.Press([]uint16{30}, MaxHold+1) == nil || r.dev.Press([]uint16{30}, -1) == nil {
		t.Error("held for no time or for ever")
	}
	err := error(nil)
	for range maxStrokes + 2 {
		err = r.dev.Press([]uint16{30}, time.Minute)
	}
	if !errors.Is(err, ErrBusy) {
		t.Errorf("with %d strokes that wait: %v", maxStrokes, err)
	}
	r.dev.Reset()
	if err := r.dev.Press([]uint16{30}, 0); !errors.Is(err, ErrNoDriver) {
		t.Errorf("after a reset: %v", err)
	}
}

// TestQuiesce presses a key while the machine stands still.
func TestQuiesce(t *testing.T) {
	r := newRig(t)
	r.dev.Quiesce()
	if err := r.dev.Press([]uint16{30}, 0); err != nil {
		t.Fatal(err)
	}
	r.room(1)
	time.Sleep(10 * time.Millisecond)
	if r.events.UsedIdx() != 0 {
		t.Error("a device that stands still types")
	}
	r.dev.Resume()
	r.events.WaitUsed(t)
}

// TestSaveRestore saves between press and release: the other device releases the key, and goes on with what waited.
func TestSaveRestore(t *testing.T) {
	r := newRig(t)
	r.dev.WriteConfig(0, []byte{selectName, 0})
	if err := r.dev.Press([]uint16{42, 30}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := r.dev.Press([]uint16{31}, 0); err != nil {
		t.Fatal(err)
	}
	if got := r.typed(2); got != "+42 +30" {
		t.Fatalf("typed %s", got)
	}
	r.dev.Quiesce()
	state, err := r.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	next := New(Config{Name: "next"})
	if err := next.Restore(state); err != nil {
		t.Fatal(err)
	}
	tr := virtiotest.NewTransport(t, r.mem, next.Features(), r.events, r.status)
	for i, q := range tr.Env.Queues {
		q.SetBase(r.tr.Env.Queues[i].Base())
	}
	if err := next.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer next.Reset()
	if got := r.typed(4); got != "-42 -30 +31 -31" {
		t.Errorf("typed %s", got)
	}
	p := make([]byte, 4)
	if next.ReadConfig(0, p); p[0] != selectName || int(p[2]) != len(Name) {
		t.Errorf("the selection is %v", p)
	}
	for _, bad := range []string{"", `{"version":2}`, `{"version":1,"down":[999]}`, `{"version":1,"waiting":[{"keys":[]}]}`, `{"version":1,"waiting":[{"keys":[1],"hold":-5}]}`} {
		if next.Restore([]byte(bad)) == nil {
			t.Errorf("restored %q", bad)
		}
	}
}

func TestConfigSpace(t *testing.T) {
	d := New(Config{Name: "input0"})
	ask := func(sel, subsel byte) []byte {
		d.WriteConfig(cfgSelect, []byte{sel})
		d.WriteConfig(cfgSubsel, []byte{subsel})
		var b [cfgData + maxData + 8]byte
		d.ReadConfig(0, b[:])
		if b[cfgSelect] != sel || b[cfgSubsel] != subsel {
			t.Errorf("selected %d, %d", b[0], b[1])
		}
		return b[cfgData : cfgData+int(b[cfgSize])]
	}
	if got := string(ask(selectName, 0)); got != Name {
		t.Errorf("name %q", got)
	}
	if got := ask(selectIDs, 0); !bytes.Equal(got, []byte{6, 0, 0xf4, 0x1a, 1, 0, 1, 0}) {
		t.Errorf("ids %v", got)
	}
	if got := ask(selectEvent, evKey); len(got) != 31 || got[0] != 0xfe || got[30] != 0xff {
		t.Errorf("keys %v", got)
	}
	if got := ask(selectEvent, evRep); len(got) != 1 {
		t.Errorf("repetition %v", got)
	}
	for _, c := range [][2]byte{{0, 0}, {selectName, 1}, {2, 0}, {0x10, 0}, {selectEvent, 2}, {0x12, 0}, {0xff, 0xff}} {
		if got := ask(c[0], c[1]); len(got) != 0 {
			t.Errorf("%v: %v", c, got)
		}
	}
	d.WriteConfig(5, []byte{1, 2, 3})
	d.WriteConfig(4000, []byte{1})
}

// TestStatus takes what a driver says of lights.
func TestStatus(t *testing.T) {
	r := newRig(t)
	r.status.Add(virtiotest.Buf{GPA: bufAt, Len: eventSize})
	r.status.Kick()
	if u := r.status.WaitUsed(t); u.Len != 0 {
		t.Errorf("%d bytes written", u.Len)
	}
}

// TestShortBuffer: a driver whose buffers hold no event is told that the device is broken.
func TestShortBuffer(t *testing.T) {
	r := newRig(t)
	r.events.Add(virtiotest.Buf{GPA: bufAt, Len: 7, Write: true})
	if err := r.dev.Press([]uint16{30}, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.tr.WaitFailure(t); !errors.Is(err, errShort) {
		t.Errorf("failed with %v", err)
	}
}

func TestEventsDoNotAllocate(t *testing.T) {
	d := New(Config{Name: "input0"})
	mem := virtiotest.NewMemory(t, 1<<20)
	ring := virtiotest.NewRing(t, mem, eventsAt, queueSize)
	q := virtiotest.NewTransport(t, mem, 0, ring).Env.Queues[0]
	s := &virtio.Service{}
	ring.SetDesc(0, bufAt, eventSize, virtiotest.Write, 0)
	d.typist.out = make([]event, 0, 1024)
	for range 1000 {
		d.typist.out = append(d.typist.out, event{kind: evSyn})
	}
	round := func() {
		ring.Offer(0)
		if _, err := d.events(s, q); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations per event", n)
	}
}

func FuzzQueues(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0}, []byte{}, uint16(1))
	f.Add([]byte{0, 0, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 1, 0}, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 0, 0, 0}, uint16(5))
	f.Fuzz(func(t *testing.T, events, status []byte, n uint16) {
		d := New(Config{Name: "input0"})
		mem := virtiotest.NewMemory(t, 1<<18)
		rings := [2]*virtiotest.Ring{virtiotest.NewRing(t, mem, eventsAt, 16), virtiotest.NewRing(t, mem, statusAt, 16)}
		tr := virtiotest.NewTransport(t, mem, virtio.FeatureIndirectDesc, rings[0], rings[1])
		mem.WriteAt(events[:min(len(events), 256)], eventsAt)
		mem.WriteAt(status[:min(len(status), 256)], statusAt)
		for i := range min(n, 16) {
			rings[0].Offer(i)
			rings[1].Offer(i)
		}
		if err := d.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		if err := d.Press([]uint16{30}, 0); err != nil {
			t.Fatal(err)
		}
		virtiotest.Eventually(t, "the device answers or fails", func() bool {
			return rings[0].UsedIdx() >= min(n, 4) && rings[1].UsedIdx() >= min(n, 16) || tr.Failure() != nil
		})
		d.Reset()
	})
}
