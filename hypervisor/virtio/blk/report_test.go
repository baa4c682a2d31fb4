package blk

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/block"
)

// TestHostErrors: a full disk is an I/O error for the guest, one line in the log, however often it tries, and news for whoever
// wants to hear it.
func TestHostErrors(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		var mu sync.Mutex
		var lines []string
		told := 0
		r := newRig(t, allFeat, block.Options{}, Config{IO: io,
			Logf: func(f string, a ...any) {
				mu.Lock()
				defer mu.Unlock()
				lines = append(lines, fmt.Sprintf(f, a...))
			},
			Failed: func(write bool, reason error) {
				mu.Lock()
				defer mu.Unlock()
				if told++; !write || !errors.Is(reason, unix.ENOSPC) {
					t.Errorf("told of write %t, %v", write, reason)
				}
			}})
		full, err := unix.Open("/dev/full", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(full)
		if err := unix.Dup3(full, r.dev.img.FD(), unix.O_CLOEXEC); err != nil { // the image has become a full device
			t.Fatal(err)
		}
		for range 5 {
			if s := r.write(0, make([]byte, 512)); s != statusIOErr {
				t.Errorf("status %d", s)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if len(lines) != 1 || !strings.Contains(lines[0], "virtio-disk0: write of 512 bytes at 0: no space left") {
			t.Errorf("log %q", lines)
		}
		if told == 0 {
			t.Error("nobody was told")
		}
		if s := r.dev.Stats(); s.Errors != 5 || s.WriteOps != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestPace: the first time at once, then not before the time is over, and to one thread only.
func TestPace(t *testing.T) {
	var p pace
	for _, c := range []struct {
		now  time.Duration
		want bool
	}{{0, true}, {time.Second - 1, false}, {time.Second + 1, true}, {time.Second + 2, false}, {3 * time.Second, true}} {
		if got := p.allow(c.now, time.Second); got != c.want {
			t.Errorf("at %v: %t", c.now, got)
		}
	}
	var wg sync.WaitGroup
	allowed := make(chan bool, 8)
	for range cap(allowed) {
		wg.Go(func() {
			if p.allow(time.Minute, time.Second) {
				allowed <- true
			}
		})
	}
	if wg.Wait(); len(allowed) != 1 {
		t.Errorf("%d threads were allowed at once", len(allowed))
	}
}
