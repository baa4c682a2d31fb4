package vhostuser_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/vhostuser"
	"virtd/hypervisor/vhostuser/vhostusertest"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// logging is a back end that notes what it writes.
func logging() vhostusertest.Config {
	cfg := able()
	cfg.Features |= vhostusertest.FeatureLogAll
	cfg.Protocol |= vhostusertest.ProtocolLogShmfd
	return cfg
}

// noted adds the pages that the log has to those of before, as hexadecimal numbers.
func (f *fixture) noted(t *testing.T, pages map[string]bool) {
	t.Helper()
	for _, r := range f.mem.Regions() {
		bitmap := make([]uint64, (r.Size/memory.PageSize+63)/64)
		if err := f.ReadLog(r.GPA, r.Size/memory.PageSize, bitmap); err != nil {
			t.Fatal(err)
		}
		for i := range r.Size / memory.PageSize {
			if bitmap[i/64]>>(i%64)&1 != 0 {
				pages[fmt.Sprintf("%x", r.GPA/memory.PageSize+i)] = true
			}
		}
	}
}

// wantNoted waits for pages to be noted and checks that no others are.
func (f *fixture) wantNoted(t *testing.T, want string) {
	t.Helper()
	pages := map[string]bool{}
	virtiotest.Eventually(t, "pages "+want, func() bool {
		f.noted(t, pages)
		return len(pages) >= len(strings.Fields(want))
	})
	var got []string
	for p := range pages {
		got = append(got, p)
	}
	slices.Sort(got)
	if text := strings.Join(got, " "); text != want {
		t.Errorf("noted pages %s, want %s", text, want)
	}
}

// TestLog: a back end that runs begins and ends to note what it writes, the used ring included; what it wrote before it was
// killed is known, and one that comes meanwhile notes as well.
func TestLog(t *testing.T) {
	b, conn := vhostusertest.Pair(t, logging())
	f := newFixture(t, conn, -1, nil)
	f.start(t)
	f.exchange(t, "before")
	if err := f.StartLog(f.mem); err != nil {
		t.Fatal(err)
	}
	if err := f.StartLog(f.mem); err != nil {
		t.Errorf("twice: %v", err)
	}
	if b.Accepted()&vhostusertest.FeatureLogAll == 0 {
		t.Error("the back end was not told to log")
	}
	_, _, used := f.queue.Rings()
	want := fmt.Sprintf("1 %x", used/memory.PageSize)
	f.exchange(t, "noted")
	f.wantNoted(t, want)
	f.exchange(t, "noted again")
	b.Kill()
	virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
	f.wantNoted(t, want)

	b, conn = vhostusertest.Pair(t, logging())
	if err := f.Replace(conn); err != nil {
		t.Fatal(err)
	}
	f.exchange(t, "by another")
	f.wantNoted(t, want)
	f.Stop()
	f.start(t)
	f.exchange(t, "started again")
	f.wantNoted(t, want)
	if err := f.StopLog(); err != nil {
		t.Fatal(err)
	}
	if b.Accepted()&vhostusertest.FeatureLogAll != 0 {
		t.Error("the back end logs on")
	}
	f.exchange(t, "after")
	if err := f.StartLog(f.mem); err != nil {
		t.Fatal(err)
	}
	f.exchange(t, "the second log")
	f.wantNoted(t, want)
}

// TestLogBeforeStart: the log begins while no driver has the device.
func TestLogBeforeStart(t *testing.T) {
	_, conn := vhostusertest.Pair(t, logging())
	f := newFixture(t, conn, -1, nil)
	if err := f.StartLog(f.mem); err != nil {
		t.Fatal(err)
	}
	f.start(t)
	f.exchange(t, "noted")
	_, _, used := f.queue.Rings()
	f.wantNoted(t, fmt.Sprintf("1 %x", used/memory.PageSize))
}

// TestNoLog: a back end that cannot note what it writes says so at the start, and one that comes meanwhile when the log is read.
func TestNoLog(t *testing.T) {
	for name, lacks := range map[string]func(*vhostusertest.Config){
		"feature":       func(c *vhostusertest.Config) { c.Features &^= vhostusertest.FeatureLogAll },
		"shared memory": func(c *vhostusertest.Config) { c.Protocol &^= vhostusertest.ProtocolLogShmfd },
	} {
		cfg := logging()
		lacks(&cfg)
		_, conn := vhostusertest.Pair(t, cfg)
		f := newFixture(t, conn, -1, nil)
		f.start(t)
		if err := f.StartLog(f.mem); err == nil || !strings.Contains(err.Error(), "VHOST_F_LOG_ALL") {
			t.Errorf("%s: %v", name, err)
		}
		f.exchange(t, "it works all the same")
	}

	b, conn := vhostusertest.Pair(t, logging())
	f := newFixture(t, conn, -1, nil)
	f.start(t)
	if err := f.StartLog(f.mem); err != nil {
		t.Fatal(err)
	}
	b.Kill()
	cfg := logging()
	cfg.Protocol &^= vhostusertest.ProtocolLogShmfd
	_, conn = vhostusertest.Pair(t, cfg)
	virtiotest.Eventually(t, "its end is noticed", func() bool { return !f.Connected() })
	if err := f.Replace(conn); err != nil {
		t.Fatal(err)
	}
	f.exchange(t, "unnoted")
	if err := f.ReadLog(0, 1, make([]uint64, 1)); err == nil || !strings.Contains(err.Error(), "VHOST_F_LOG_ALL") {
		t.Errorf("the log of a back end that does not note: %v", err)
	}
	if err := f.StopLog(); err != nil {
		t.Error(err)
	}
}

// TestLogRefused: a back end that breaks off when it is given the log is gone, and nothing else.
func TestLogRefused(t *testing.T) {
	for name, answer := range map[string][]byte{
		"breaks off":    nil,
		"wrong reply":   vhostusertest.Reply(vhostusertest.SetVringNum, vhostusertest.Word(0)),
		"not a reply":   vhostusertest.Message(vhostusertest.SetLogBase, 1, nil),
		"huge reply":    vhostusertest.Reply(vhostusertest.SetLogBase, make([]byte, 4096)),
		"wrong version": vhostusertest.Message(vhostusertest.SetLogBase, 1<<2|3, nil),
	} {
		cfg := logging()
		cfg.Answer = func(request uint32, _ []byte) ([]byte, []int, bool) {
			return answer, nil, request == vhostusertest.SetLogBase
		}
		_, conn := vhostusertest.Pair(t, cfg)
		f := newFixture(t, conn, -1, nil)
		f.start(t)
		f.exchange(t, "before")
		if err := f.StartLog(f.mem); err == nil {
			t.Errorf("%s: the log began", name)
		}
		virtiotest.Eventually(t, name+": its end is noticed", func() bool { return !f.Connected() })
		if err := f.ReadLog(0, 1, make([]uint64, 1)); err != nil {
			t.Errorf("%s: there is a log: %v", name, err)
		}
		_, conn = vhostusertest.Pair(t, logging())
		if err := f.Replace(conn); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f.exchange(t, "by another")
	}
}

// TestDriverSeesNoLog: the feature is between engine and back end.
func TestDriverSeesNoLog(t *testing.T) {
	cfg := logging()
	cfg.Space = make([]byte, 60)
	_, conn := vhostusertest.Pair(t, cfg)
	d, err := vhostuser.NewBlock(conn, -1, vhostuser.BlockConfig{Name: "disk0", MostQueues: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if f := d.Features(); f&(vhostusertest.FeatureLogAll|vhostusertest.FeatureProtocol) != 0 || f&virtio.FeatureEventIdx == 0 {
		t.Errorf("the driver is offered %#x", f)
	}
}
