package net

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkWake measures what it costs to wake a worker for one packet each way, with pauses as a guest makes them: the
// time of the processor for all threads, switches of threads, and system calls left to the reader's imagination.
func BenchmarkWake(b *testing.B) {
	for _, gap := range []time.Duration{0, 50 * time.Microsecond, 500 * time.Microsecond} {
		b.Run(gap.String(), func(b *testing.B) {
			f := newFixture(b, 1, allNet)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			buf, out := f.rxBuffer(2048), f.put(make([]byte, 100))
			packet := make([]byte, 100)
			for range 32 {
				f.rx(0).Add(buf)
			}
			f.rx(0).Kick() // the worker may have found the queue empty
			var before, after unix.Rusage
			unix.Getrusage(unix.RUSAGE_SELF, &before)
			for b.Loop() {
				unix.Write(f.host[0], packet)
				f.rx(0).WaitUsed(b)
				f.rx(0).Add(buf)
				f.tx(0).Add(out)
				if f.tx(0).WantsKick() {
					f.tx(0).Kick()
				}
				waitHost(b, f)
				f.tx(0).Collect()
				for end := time.Now().Add(gap); time.Now().Before(end); {
				}
			}
			unix.Getrusage(unix.RUSAGE_SELF, &after)
			n := float64(b.N)
			b.ReportMetric(float64(after.Stime.Nano()+after.Utime.Nano()-before.Stime.Nano()-before.Utime.Nano())/n-float64(gap), "cpu-ns/op")
			b.ReportMetric(float64(after.Nvcsw+after.Nivcsw-before.Nvcsw-before.Nivcsw)/n, "switches/op")
		})
	}
}

func waitHost(b *testing.B, f *fixture) {
	fds := []unix.PollFd{{Fd: int32(f.host[0]), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, 10000); err == nil && n == 1 {
			break
		} else if err != unix.EINTR {
			b.Fatalf("no packet: %d, %v", n, err)
		}
	}
	var p [256]byte
	unix.Read(f.host[0], p[:])
}

// BenchmarkStream has a driver send packets one behind the other, as fast as it can, each of which takes it some time to make and
// each kick an exit. It tells how many kicks a packet takes; run it with taskset for a driver and a worker that share a processor.
func BenchmarkStream(b *testing.B) {
	const (
		work = time.Microsecond     // of a guest for a small packet
		exit = 2 * time.Microsecond // of a vCPU, apart from the signal itself
	)
	spin := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); {
		}
	}
	f := newFixture(b, 1, allNet)
	out := f.put(make([]byte, headerSize+200))
	go func() { // the host's side, until the socket closes
		var p [4096]byte
		for {
			fds := []unix.PollFd{{Fd: int32(f.host[0]), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR || fds[0].Revents&unix.POLLNVAL != 0 {
				return
			}
			for {
				if n, err := unix.Read(f.host[0], p[:]); n <= 0 || err != nil {
					break
				}
			}
		}
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	kicks, queued := 0, 0
	for b.Loop() {
		spin(work)
		f.tx(0).Add(out)
		queued++
		if f.tx(0).WantsKick() {
			f.tx(0).Kick()
			spin(exit)
			kicks++
		}
		for _, ok := f.tx(0).Collect(); ok; _, ok = f.tx(0).Collect() {
			queued--
		}
		if queued == ringSize {
			f.tx(0).WaitUsed(b)
			queued--
		}
	}
	b.ReportMetric(float64(kicks)/float64(b.N), "kicks/op")
}
