package pmqos

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// held reports whether l has made a request. Tests in a synctest bubble ask it after timers that are due have run.
func held(l *Latency) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held != nil
}

// fake returns a Latency that writes to a plain file, and its path.
func fake(t *testing.T) (*Latency, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cpu_dma_latency")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return &Latency{path: path, log: slog.New(slog.DiscardHandler)}, path
}

// TestBurst: CPUs are kept awake from the second wait on, until some time after the last, and never for long.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, path := fake(t)
		defer l.Close()
		l.Waits()
		if held(l) {
			t.Error("one wait is a burst")
		}
		time.Sleep(apart / 2)
		l.Waits()
		if !held(l) {
			t.Fatal("two waits are none")
		}
		if b, err := os.ReadFile(path); err != nil || len(b) != 4 || binary.NativeEndian.Uint32(b) != 0 {
			t.Errorf("asked for % x, %v", b, err)
		}
		time.Sleep(3 * apart)
		if held(l) {
			t.Error("the request outlasts the burst")
		}
	})
}

func TestLongBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := fake(t)
		defer l.Close()
		var total time.Duration
		wait := func(d time.Duration) {
			for range d / time.Millisecond {
				l.Waits()
				if held(l) {
					total += time.Millisecond
				}
				time.Sleep(time.Millisecond)
			}
		}
		wait(2 * time.Second)
		time.Sleep(resting / 2) // no rest
		wait(time.Second)
		if total < longest-apart || total > longest+time.Millisecond {
			t.Errorf("CPUs were kept awake for %v of a burst, not for about %v", total, longest)
		}
		time.Sleep(2 * resting)
		total = 0
		wait(time.Second)
		if total < longest/2 {
			t.Error("after a rest they are not kept awake again")
		}
	})
}

func TestWaitsFarApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := fake(t)
		defer l.Close()
		for range 50 {
			l.Waits()
			if held(l) {
				t.Fatal("waits that are far apart are a burst")
			}
			time.Sleep(apart + time.Millisecond)
		}
	})
}

// TestNotAllowed: where requests are refused, waiting goes on as before.
func TestNotAllowed(t *testing.T) {
	l, path := fake(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l.waits(now)
	l.waits(now)
	if held(l) || !l.off {
		t.Error("a request that failed counts, or is made again")
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := fake(t)
		l.Waits()
		l.Waits()
		if !held(l) {
			t.Fatal("no request")
		}
		l.Close()
		l.Waits()
		l.Waits()
		if held(l) {
			t.Error("a request outlasts Close")
		}
	})
}

// TestKernel: the kernel takes what is written for a request, and forgets it at the end.
func TestKernel(t *testing.T) {
	if _, err := effective(); err != nil {
		t.Skip("the kernel takes no requests from this process: ", err)
	}
	l := New(slog.New(slog.DiscardHandler))
	defer l.Close()
	l.mu.Lock() // look waits
	err := l.hold(time.Now())
	now, eerr := effective()
	l.mu.Unlock()
	if err := errors.Join(err, eerr); err != nil || now != 0 {
		t.Fatalf("CPUs may take %d us to wake during a burst, %v", now, err)
	}
	l.Close()
	for end := time.Now().Add(10 * time.Second); now == 0; time.Sleep(time.Millisecond) { // others may ask for the same
		if now, err = effective(); err != nil || time.Now().After(end) {
			t.Fatalf("CPUs may take %d us to wake after it, %v", now, err)
		}
	}
}

// effective returns what the kernel keeps to now, in microseconds.
func effective() (int32, error) {
	f, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [4]byte
	_, err = f.Read(b[:])
	return int32(binary.NativeEndian.Uint32(b[:])), err
}
