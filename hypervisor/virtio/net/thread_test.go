package net

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func onCPUs(n int) func(*Config) { return func(c *Config) { c.cpus = n } }

func TestPairsPerThread(t *testing.T) {
	for _, c := range []struct{ pairs, cpus, want int }{
		{1, 1, 1}, {4, 1, 4}, {4, 2, 4}, {4, 3, 4}, {4, 4, 2}, {4, 6, 2}, {4, 8, 1}, {5, 4, 3}, {16, 8, 4}, {16, 128, 1},
	} {
		if got := pairsPerThread(c.pairs, c.cpus); got != c.want {
			t.Errorf("%d pairs on %d CPUs: %d a thread, want %d", c.pairs, c.cpus, got, c.want)
		}
	}
}

// TestThreads: however many threads there are, top shows whose queues they serve, and packets go both ways on every pair while the
// others sleep.
func TestThreads(t *testing.T) {
	for cpus, want := range map[int][]string{
		1: {"threads/0-3"}, 4: {"threads/0-1", "threads/2-3"}, 8: {"threads/0", "threads/1", "threads/2", "threads/3"},
	} {
		t.Run(fmt.Sprintf("%d CPUs", cpus), func(t *testing.T) {
			f := newFixture(t, 4, allNet, onCPUs(cpus), func(c *Config) { c.ID = "threads" })
			for round := range 3 {
				for pair := range 4 {
					bufs := f.offerRx(pair, 1, 2048)
					in := pattern(100 + 10*round + pair)
					f.fromHost(pair, in)
					wantBytes(t, fmt.Sprintf("packet %d to pair %d", round, pair), f.receiveFrame(pair, bufs), in)
					out := pattern(200 + 10*round + pair)
					f.tx(pair).Add(f.put(append(make([]byte, f.header()), out...)))
					if f.tx(pair).WantsKick() {
						f.tx(pair).Kick()
					}
					wantBytes(t, fmt.Sprintf("packet %d of pair %d", round, pair), f.toHost(pair)[f.header():], out)
					f.tx(pair).WaitUsed(t)
				}
			}
			var names []string
			for _, thread := range f.dev.data.(threads) {
				names = append(names, thread.name())
			}
			if !slices.Equal(names, want) {
				t.Errorf("threads %q, want %q", names, want)
			}
			if shown := threadNames(); slices.ContainsFunc(want, func(n string) bool { return !slices.Contains(shown, n) }) {
				t.Errorf("no threads %q among %q", want, shown)
			}
		})
	}
}

// TestThreadWithoutTap: a thread that cannot be made says for which pair, and leaves no descriptor.
func TestThreadWithoutTap(t *testing.T) {
	f := newFixture(t, 2, allNet)
	f.dev.Quiesce()
	q := f.tr.Env.Queues
	ws := []*worker{f.dev.newWorker(0, q[0], q[1]), f.dev.newWorker(1, q[2], q[3])}
	ws[1].tap = &tap{fd: -1}
	before, _ := os.ReadDir("/proc/self/fd")
	if _, err := newThread(ws); err == nil || !strings.Contains(err.Error(), "queue pair 1") {
		t.Errorf("error %v", err)
	}
	if after, _ := os.ReadDir("/proc/self/fd"); len(after) > len(before) {
		t.Errorf("%d descriptors before, %d after", len(before), len(after))
	}
}

// threadNames returns the names of this process's threads.
func threadNames() []string {
	var names []string
	comms, _ := filepath.Glob("/proc/self/task/*/comm")
	for _, c := range comms {
		b, _ := os.ReadFile(c)
		names = append(names, strings.TrimSpace(string(b)))
	}
	return names
}

// TestBusyQueueLeavesTurns: a queue that never runs empty keeps another of its thread, which sleeps, neither from sending nor from
// receiving. The test is the thread.
func TestBusyQueueLeavesTurns(t *testing.T) {
	f := newFixture(t, 2, allNet)
	f.dev.Quiesce()
	q := f.tr.Env.Queues
	th, err := newThread([]*worker{f.dev.newWorker(0, q[0], q[1]), f.dev.newWorker(1, q[2], q[3])})
	if err != nil {
		t.Fatal(err)
	}
	defer th.close()
	busy, other := f.put(make([]byte, f.header()+60)), f.put(append(make([]byte, f.header()), pattern(80)...))
	turn := func() {
		t.Helper()
		for range txBudget { // as much as one turn takes
			f.tx(0).Add(busy)
		}
		if err := th.turn(make([]unix.EpollEvent, 8)); err != nil {
			t.Fatal(err)
		}
		for range txBudget {
			f.toHost(0)
			if _, ok := f.tx(0).Collect(); !ok {
				t.Fatal("the busy queue was not served in full")
			}
		}
	}
	th.begin()
	for range 2 {
		turn()
		if _, more, err := th.arm(); more || err != nil || th.workers[1].awake {
			t.Fatalf("the pair does not sleep: more to do %v, %v", more, err)
		}
		th.workers[0].awake = true // as if it had been kicked
		f.tx(1).Add(other)
		if !f.tx(1).WantsKick() {
			t.Fatal("a queue that sleeps wants no kick")
		}
		f.tx(1).Kick()
		bufs := f.offerRx(1, 1, 2048)
		f.fromHost(1, pattern(100))
		turn() // notices
		turn() // serves
		wantBytes(t, "a packet of the other pair", f.toHost(1)[f.header():], pattern(80))
		f.tx(1).WaitUsed(t)
		wantBytes(t, "a packet to the other pair", f.receiveFrame(1, bufs), pattern(100))
	}
}
