package labtest

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"time"
)

// A Console watches what a guest writes and types into it. It may be used by one test goroutine at a time.
type Console struct {
	t    testing.TB
	w    io.Writer
	more chan struct{}

	mu   sync.Mutex
	seen []byte // everything read so far
	mark int    // end of what Expect has matched
	err  error  // why reading ended
}

// NewConsole reads r until it ends; w may be nil when nothing is typed. The caller closes r, at the latest in a
// cleanup, which ends the reading goroutine. When the test fails, the end of the console is logged.
func NewConsole(t testing.TB, r io.Reader, w io.Writer) *Console {
	c := &Console{t: t, w: w, more: make(chan struct{}, 1)}
	go c.read(r)
	t.Cleanup(func() {
		if t.Failed() {
			s := c.Text()
			t.Logf("end of the console:\n%s", s[max(0, len(s)-4000):])
		}
	})
	return c
}

func (c *Console) read(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		c.mu.Lock()
		c.seen = append(c.seen, buf[:n]...)
		c.err = err
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// Text is everything the guest has written so far.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.seen)
}

// Expect waits until the guest writes text, behind what the previous Expect matched, and returns what came before
// it. It fails the test when the console ends, or after the time given.
func (c *Console) Expect(text string, within time.Duration) string {
	c.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		c.mu.Lock()
		rest := c.seen[c.mark:]
		i := bytes.Index(rest, []byte(text))
		err := c.err
		if i >= 0 {
			c.mark += i + len(text)
			before := string(rest[:i])
			c.mu.Unlock()
			return before
		}
		c.mu.Unlock()
		if err != nil {
			c.t.Fatalf("console ended (%v) without %q", err, text)
		}
		select {
		case <-c.more:
		case <-deadline.C:
			c.t.Fatalf("console did not say %q within %v", text, within)
		}
	}
}

// Send types text into the guest.
func (c *Console) Send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.w, text); err != nil {
		c.t.Fatalf("typing into the console: %v", err)
	}
}
