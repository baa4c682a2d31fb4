package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP":{"version":{"qemu":{"major":1}},"capabilities":[]}}` + "\n"

// engine answers each command line with what f returns, after the greeting.
func engine(t *testing.T, f func(cmd map[string]json.RawMessage) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		defer theirs.Close()
		fmt.Fprint(theirs, greeting)
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			var cmd map[string]json.RawMessage
			if json.Unmarshal(lines.Bytes(), &cmd) != nil {
				return
			}
			out := fmt.Sprintf(`{"return":{},"id":%s}`, cmd["id"])
			if string(cmd["execute"]) != `"qmp_capabilities"` {
				out = f(cmd)
			}
			if out == "" {
				return
			}
			fmt.Fprintln(theirs, out)
		}
	}()
	return ours
}

func client(t *testing.T, conn net.Conn, onEvent func(Event)) *Client {
	t.Helper()
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	c, err := New(context.Background(), conn, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestExecute(t *testing.T) {
	var events []string
	c := client(t, engine(t, func(cmd map[string]json.RawMessage) string {
		switch string(cmd["execute"]) {
		case `"stop"`:
			return `{"event":"STOP","timestamp":{"seconds":5,"microseconds":7}}` + "\n" + fmt.Sprintf(`{"return":{},"id":%s}`, cmd["id"])
		case `"balloon"`:
			return fmt.Sprintf(`{"return":%s,"id":%s}`, cmd["arguments"], cmd["id"])
		}
		return fmt.Sprintf(`{"error":{"class":"CommandNotFound","desc":"no such command"},"id":%s}`, cmd["id"])
	}), func(e Event) { events = append(events, fmt.Sprint(e.Name, e.Time.UnixMicro())) })
	if err := c.Execute(context.Background(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 || events[0] != "STOP5000007" { // without a lock: it was handled before Execute returned
		t.Fatal(events)
	}
	var got struct{ Value int }
	if err := c.Execute(context.Background(), "balloon", map[string]int{"value": 3}, &got); err != nil || got.Value != 3 {
		t.Fatal(got, err)
	}
	var qerr *Error
	if err := c.Execute(context.Background(), "x", nil, nil); !errors.As(err, &qerr) || qerr.Class != "CommandNotFound" {
		t.Fatal(err)
	}
	raw, err := c.Raw(context.Background(), `{"execute":"nothing","id":"mine"}`)
	if err != nil || !strings.Contains(raw, `"error"`) || !strings.Contains(raw, `"id":"virtd-`) {
		t.Fatal(raw, err)
	}
	if _, err := c.Raw(context.Background(), `info balloon`); err == nil {
		t.Fatal("what is no JSON was sent")
	}
}

func TestConcurrentCommandsGetTheirOwnReplies(t *testing.T) {
	c := client(t, engine(t, func(cmd map[string]json.RawMessage) string {
		return fmt.Sprintf(`{"return":%s,"id":%s}`, cmd["arguments"], cmd["id"])
	}), nil)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			var got int
			if err := c.Execute(context.Background(), "echo", i, &got); err != nil || got != i {
				t.Errorf("%d: %d %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestSilentEngineCostsOnlyTheDeadline(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		fmt.Fprint(theirs, greeting)
		lines := bufio.NewScanner(theirs)
		lines.Scan()
		fmt.Fprintln(theirs, `{"return":{},"id":"hello"}`)
		for lines.Scan() {
		}
	}()
	c := client(t, ours, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if len(c.pending) != 0 {
		t.Fatal("an abandoned command is still waited for")
	}
}

func TestNoGreeting(t *testing.T) {
	for _, first := range []string{"", "hello\n", "{}\n", greeting + "{}\n", greeting + `{"error":{"class":"x","desc":"no"},"id":"hello"}` + "\n"} {
		ours, theirs := net.Pipe()
		go func() {
			fmt.Fprint(theirs, first)
			bufio.NewReader(theirs).ReadString('\n')
			theirs.Close()
		}()
		if first == "" {
			theirs.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if c, err := New(ctx, ours, func(Event) {}); err == nil {
			c.Close()
			t.Errorf("%q was taken for a monitor", first)
		}
		cancel()
		theirs.Close()
	}
}

func TestEndOfTheEngineEndsCommands(t *testing.T) {
	c := client(t, engine(t, func(map[string]json.RawMessage) string { return "" }), nil)
	if err := c.Execute(context.Background(), "x", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Execute(context.Background(), "x", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// FuzzEngine feeds the client what a hostile engine may send.
func FuzzEngine(f *testing.F) {
	f.Add([]byte(`{"return":{},"id":"hello"}` + "\n" + `{"event":"STOP"}` + "\n"))
	f.Add([]byte(`{"return":{},"id":"hello"}` + "\n" + `{"id":"virtd-1","return":7}` + "\n" + `{"error":{}}` + "\n"))
	f.Add([]byte("{\n[]\n\x00\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		ours, theirs := net.Pipe()
		go func() {
			lines := bufio.NewReader(theirs)
			fmt.Fprint(theirs, greeting)
			lines.ReadString('\n')
			theirs.Write(sent)
			theirs.Close()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c, err := New(ctx, ours, func(Event) {})
		if err != nil {
			theirs.Close()
			return
		}
		_ = c.Execute(ctx, "x", nil, nil)
		c.Close()
		theirs.Close()
	})
}
