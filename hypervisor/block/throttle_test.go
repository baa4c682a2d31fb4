package block

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func newThrottle(t testing.TB, l Limits) *Throttle {
	t.Helper()
	th, err := NewThrottle(l)
	if err != nil {
		t.Fatal(err)
	}
	return th
}

// finish runs n requests one after another through th from time 0 on and returns when the last began, on a clock of our own.
func finish(th *Throttle, n int, op Op) time.Duration {
	now := int64(0)
	for range n {
		now = max(now, th.reserve(&op, now))
	}
	return time.Duration(now)
}

func TestThrottleTimes(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		l    Limits
		n    int
		op   Op
		want time.Duration
	}{
		"no limit":           {Limits{}, 1000, Op{Code: Read, Len: mib}, 0},
		"ops":                {Limits{TotalOps: Rate{PerSecond: 10}}, 22, Op{Code: Read, Len: 512}, 2 * time.Second},
		"reads":              {Limits{ReadOps: Rate{PerSecond: 10}}, 22, Op{Code: Read, Len: 512}, 2 * time.Second},
		"writes not limited": {Limits{ReadOps: Rate{PerSecond: 10}}, 22, Op{Code: Write, Len: 512}, 0},
		"bytes":              {Limits{WriteBytes: Rate{PerSecond: 10 * mib}}, 22, Op{Code: Write, Len: mib}, 2 * time.Second},
		"zeroes":             {Limits{WriteBytes: Rate{PerSecond: 10 * mib}}, 22, Op{Code: WriteZeroes, Len: mib}, 2 * time.Second},
		"discards' bytes":    {Limits{WriteBytes: Rate{PerSecond: 10 * mib}}, 22, Op{Code: Discard, Len: mib}, 0},
		"discards":           {Limits{WriteOps: Rate{PerSecond: 10}, OpBytes: 512}, 22, Op{Code: Discard, Len: mib}, 2 * time.Second},
		"large operations":   {Limits{TotalOps: Rate{PerSecond: 20}, OpBytes: 4096}, 22, Op{Code: Read, Len: 8192}, 2 * time.Second},
		"small operations":   {Limits{TotalOps: Rate{PerSecond: 10}, OpBytes: 4096}, 22, Op{Code: Read, Len: 512}, 2 * time.Second},
		// 100 at once, and then 10 a second
		"burst": {Limits{TotalOps: Rate{PerSecond: 10, Burst: 100}}, 121, Op{Code: Read, Len: 512}, 2 * time.Second},
		// 50 a second as long as there are less than 100 beyond the average, which takes two and a half seconds
		"long burst": {Limits{TotalOps: Rate{PerSecond: 10, Burst: 50, Seconds: 2}}, 121, Op{Code: Read, Len: 512}, 2300 * time.Millisecond},
		"one more than a disk can": {Limits{TotalBytes: Rate{PerSecond: 1}}, 3, Op{Code: Read, Len: 1 << 40},
			time.Duration(farthest) - time.Duration(tenth)},
	} {
		got := finish(newThrottle(t, c.l), c.n, c.op)
		if diff := got - c.want; diff < -time.Millisecond || diff > time.Millisecond {
			t.Errorf("%s: the last of %d requests began after %v, want %v", name, c.n, got, c.want)
		}
	}
}

// TestThrottleKeepsItsWord lets several disks of a group do what they like; in no stretch of time more than rate and rim
// allow goes through.
func TestThrottleKeepsItsWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := Rate{PerSecond: rapid.Uint64Range(1, 1e9).Draw(t, "rate")}
		if rapid.Bool().Draw(t, "bursts") {
			rate.Burst = rapid.Uint64Range(rate.PerSecond, 2e9).Draw(t, "burst")
			rate.Seconds = rapid.Uint64Range(0, 10).Draw(t, "seconds")
		}
		th, err := NewThrottle(Limits{TotalBytes: rate})
		if err != nil {
			t.Fatal(err)
		}
		room := float64(rate.PerSecond) / 10
		if rate.Burst != 0 {
			room = float64(rate.Burst) * float64(max(rate.Seconds, 1))
		}
		now, moved := int64(0), 0.0
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now += rapid.Int64Range(0, 1e8).Draw(t, "pause")
			op := Op{Code: rapid.SampledFrom([]Code{Read, Write}).Draw(t, "code"), Len: rapid.Int64Range(512, 1<<20).Draw(t, "len")}
			now = max(now, th.reserve(&op, now))
			if most := float64(rate.PerSecond)*float64(now)/1e9 + room; moved > most*1.001+1 {
				t.Fatalf("%.0f bytes before %v, at most %.0f are allowed", moved, time.Duration(now), most)
			}
			moved += float64(op.Len)
		}
	})
}

func TestThrottleRefuses(t *testing.T) {
	one := Rate{PerSecond: 1}
	for _, l := range []Limits{
		{TotalBytes: Rate{PerSecond: maxRate + 1}}, {ReadOps: Rate{Burst: 5}}, {WriteOps: Rate{PerSecond: 5, Burst: 4}},
		{WriteBytes: Rate{PerSecond: 5, Seconds: 2}}, {OpBytes: maxRate + 1}, {TotalBytes: one, ReadBytes: one}, {TotalOps: one, WriteOps: one},
	} {
		if _, err := NewThrottle(l); err == nil {
			t.Errorf("accepted %+v", l)
		}
	}
}

// bothEngines runs f with each way of I/O that the host has.
func bothEngines(t *testing.T, f func(t *testing.T, io string)) {
	for _, io := range []string{"io_uring", "threads"} {
		t.Run(io, func(t *testing.T) { f(t, io) })
	}
}

// feed submits n requests of 4 KiB at once and calls done for each that completes, on the loop's thread, until it is stopped.
func feed(t *testing.T, l *Loop, code Code, n int, done func(op *Op)) {
	t.Helper()
	buf := guestMemory(t, 4096)
	l.Start(-1, func() {
		for i := range n {
			l.Submit(&Op{Code: code, Off: int64(i) * 4096, Len: 4096, Iov: iov(buf)})
		}
		for !l.Stopping() || l.InFlight() > 0 {
			for op := l.Next(); op != nil; op = l.Next() {
				done(op)
			}
			if l.Stopping() && l.InFlight() == 0 {
				return
			}
			if err := l.Wait(); err != nil {
				t.Error(err)
				return
			}
		}
	})
}

// TestThrottledLoop measures that requests come no faster than allowed, that each engine wakes up by itself, and that a
// write does not wait for the reads' limit, nor another disk for this one's.
func TestThrottledLoop(t *testing.T) {
	bothEngines(t, func(t *testing.T, io string) {
		slow, _ := newImage(t, t.TempDir(), 1<<20, Options{})
		slow.SetThrottle(newThrottle(t, Limits{ReadOps: Rate{PerSecond: 100}}))
		l := newLoop(t, slow, io)
		begin, got := time.Now(), make(chan *Op, 64)
		feed(t, l, Read, 22, func(op *Op) { got <- op })
		other, _ := newImage(t, t.TempDir(), 1<<20, Options{})
		for range 10 {
			run(t, newLoop(t, other, io), &Op{Code: Read, Len: 4096, Iov: iov(guestMemory(t, 4096))})
		}
		for range 22 {
			if op := <-got; op.Err != 0 {
				t.Errorf("read: %v", op.Err)
			}
		}
		// the rim is at ten: the last twelve wait
		if took := time.Since(begin); took < 100*time.Millisecond {
			t.Errorf("22 reads at 100 a second took %v", took)
		}
		l.Stop()
		begin = time.Now()
		slow.SetThrottle(newThrottle(t, Limits{ReadOps: Rate{PerSecond: 1, Burst: 1}}))
		order := make(chan Code, 64)
		buf := guestMemory(t, 4096)
		l.Start(-1, func() {
			for _, code := range []Code{Read, Read, Read, Read, Write, Flush} {
				l.Submit(&Op{Code: code, Len: 4096, Iov: iov(buf)})
			}
			for l.InFlight() > 0 && !l.Stopping() {
				for op := l.Next(); op != nil; op = l.Next() {
					order <- op.Code
				}
				l.Wait()
			}
		})
		seen := map[Code]bool{}
		for !seen[Write] || !seen[Flush] {
			seen[<-order] = true
		}
		l.Stop()
		if l.InFlight() != 0 {
			t.Errorf("%d in flight after Stop", l.InFlight())
		}
	})
}

// TestThrottleGroup shares one throttle between two disks: together they are as slow as one, and each gets its part.
func TestThrottleGroup(t *testing.T) {
	bothEngines(t, func(t *testing.T, io string) {
		th := newThrottle(t, Limits{TotalOps: Rate{PerSecond: 100, Burst: 100}})
		type done struct{ disk int }
		got := make(chan done, 256)
		for range 100 { // what may go at once
			th.reserve(&Op{Code: Read, Len: 4096}, th.now())
		}
		begin := time.Now()
		for disk := range 2 {
			img, _ := newImage(t, t.TempDir(), 1<<20, Options{})
			img.SetThrottle(th)
			feed(t, newLoop(t, img, io), Read, 30, func(*Op) { got <- done{disk} })
		}
		count := [2]int{}
		for range 24 {
			count[(<-got).disk]++
		}
		if took := time.Since(begin); took < 200*time.Millisecond {
			t.Errorf("24 reads of a group at 100 a second took %v", took)
		}
		if count[0] < 4 || count[1] < 4 {
			t.Errorf("the disks had %d and %d of 24 turns", count[0], count[1])
		}
	})
}

// TestThrottleChanges raises and lifts a limit while requests wait for hours.
func TestThrottleChanges(t *testing.T) {
	bothEngines(t, func(t *testing.T, io string) {
		slowest := Limits{TotalOps: Rate{PerSecond: 1, Burst: 1}, TotalBytes: Rate{PerSecond: 1}}
		for name, next := range map[string]*Throttle{"none": nil, "higher": newThrottle(t, Limits{TotalOps: Rate{PerSecond: 1e6}})} {
			img, _ := newImage(t, t.TempDir(), 1<<20, Options{})
			img.SetThrottle(newThrottle(t, slowest))
			l := newLoop(t, img, io)
			got := make(chan *Op, 32)
			feed(t, l, Write, 30, func(op *Op) { got <- op })
			<-got // the first goes, and with it an hour is full
			img.SetThrottle(newThrottle(t, slowest))
			l.Wake()
			<-got
			img.SetThrottle(next)
			l.Wake()
			for range 28 {
				select {
				case op := <-got:
					if op.Err != 0 {
						t.Errorf("%s: %v", name, op.Err)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: requests still wait for the old limit", name)
				}
			}
			l.Stop()
		}
	})
}

// TestThrottledStop ends loops whose requests wait for hours: Stop lets them go, at the guest's expense, and Cancel ends them.
func TestThrottledStop(t *testing.T) {
	bothEngines(t, func(t *testing.T, io string) {
		img, _ := newImage(t, t.TempDir(), 1<<20, Options{})
		l := newLoop(t, img, io)
		for _, c := range []struct {
			stop func()
			want unix.Errno
		}{{l.Stop, 0}, {l.Cancel, unix.ECANCELED}, {l.Stop, 0}} {
			th := newThrottle(t, Limits{WriteOps: Rate{PerSecond: 1, Burst: 1, Seconds: 1}, WriteBytes: Rate{PerSecond: 1}})
			img.SetThrottle(th)
			first, errs := make(chan bool, 1), map[unix.Errno]int{}
			feed(t, l, Write, 30, func(op *Op) {
				errs[op.Err]++
				select {
				case first <- true:
				default:
				}
			})
			<-first
			c.stop()
			if errs[c.want] < 29 || errs[0]+errs[unix.ECANCELED] != 30 || l.held.n != 0 || l.InFlight() != 0 {
				t.Errorf("results %v, %d held, %d in flight", errs, l.held.n, l.InFlight())
			}
			owes := th.buckets[writeBytes].average.empty - th.now()
			if paid := owes > int64(29*4096*time.Second); paid != (c.want == 0) {
				t.Errorf("after %v the guest owes %v", c.want, time.Duration(owes))
			}
		}
	})
}

// TestThrottleDoesNotAllocate goes through a throttle that makes requests wait.
func TestThrottleDoesNotAllocate(t *testing.T) {
	bothEngines(t, func(t *testing.T, io string) {
		img, _ := newImage(t, t.TempDir(), 1<<20, Options{})
		img.SetThrottle(newThrottle(t, Limits{TotalOps: Rate{PerSecond: 5000}, TotalBytes: Rate{PerSecond: 1e9, Burst: 1e9, Seconds: 2}}))
		l := newLoop(t, img, io)
		ops, iovs := make([]Op, 16), [16][]unix.Iovec{}
		data := guestMemory(t, 512)
		for i := range ops {
			iovs[i] = iov(data)
		}
		waited := 0
		result := make(chan float64)
		l.Start(-1, func() {
			result <- testing.AllocsPerRun(200, func() {
				for i := range ops {
					iovs[i][0].Base = &data[0]
					iovs[i][0].SetLen(512)
					ops[i] = Op{Code: Read, Len: 512, Iov: iovs[i]}
					l.Submit(&ops[i])
				}
				waited += l.held.n
				for l.InFlight() > 0 {
					l.Wait()
					for l.Next() != nil {
					}
				}
			})
		})
		if n := <-result; n != 0 {
			t.Errorf("%v allocations", n)
		}
		l.Stop()
		if waited == 0 {
			t.Error("no request waited")
		}
	})
}
