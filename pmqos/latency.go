package pmqos

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Device is where the kernel takes requests: a number of microseconds, as a 32-bit integer of the machine's byte order. One
// counts for as long as the file is open, and goes with the process.
const Device = "/dev/cpu_dma_latency"

const (
	apart   = 20 * time.Millisecond  // waits that follow one another within this make a burst
	longest = 200 * time.Millisecond // of a burst during which CPUs are kept awake: after that its work does it
	resting = time.Second            // without a wait, before another burst is one that begins after a rest
)

// Latency keeps CPUs awake at the beginning of bursts. Its methods may be called from any goroutine.
type Latency struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	last  time.Time // when somebody began to wait
	since time.Time // when the burst began that last is of, or the one before it if there was no rest in between
	held  *os.File  // the request; nil: there is none
	timer *time.Timer
	off   bool // the kernel takes no requests from us, or Close was called
}

// New returns a Latency that asks at Device. Whether it may is found out at the first burst; where it may not, nothing
// happens but a line in the log at debug level.
func New(log *slog.Logger) *Latency { return &Latency{path: Device, log: log} }

// Waits says that somebody begins to wait for something that takes CPUs to wake up. It returns at once.
func (l *Latency) Waits() { l.waits(time.Now()) }

func (l *Latency) waits(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	passed := now.Sub(l.last)
	l.last = now
	if passed > resting {
		l.since = now
	}
	if l.off || l.held != nil || passed > apart || now.Sub(l.since) >= longest {
		return
	}
	if err := l.hold(now); err != nil {
		l.off = errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
		l.log.Debug("CPUs may sleep deeply while clients wait", "err", err)
	}
}

// hold makes the request, and sees to its end. The caller holds mu.
func (l *Latency) hold(now time.Time) error {
	f, err := os.OpenFile(l.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.Write(binary.NativeEndian.AppendUint32(nil, 0)); err != nil {
		f.Close()
		return err
	}
	l.held = f
	if l.timer == nil {
		l.timer = time.AfterFunc(l.left(now), l.look)
	} else {
		l.timer.Reset(l.left(now))
	}
	return nil
}

// left is how long the request is left alone: until the burst may be over, or has lasted long enough.
func (l *Latency) left(now time.Time) time.Duration { return min(apart, longest-now.Sub(l.since)) }

// look ends the request when the burst is over, or has lasted long enough.
func (l *Latency) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.held != nil && now.Sub(l.last) <= apart && now.Sub(l.since) < longest {
		l.timer.Reset(l.left(now))
		return
	}
	l.release()
}

// release ends the request, if there is one. The caller holds mu.
func (l *Latency) release() {
	if l.held != nil {
		l.held.Close()
		l.held = nil
	}
}

// Close ends the request, and makes no other.
func (l *Latency) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.off = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.release()
}
