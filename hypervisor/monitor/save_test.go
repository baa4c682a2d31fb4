package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Save writes a word, and waits for the end of ctx when the machine is asked to be slow.
func (f *fakeMachine) Save(ctx context.Context, to *os.File, as Described) error {
	defer to.Close()
	words := append([]string{"save"}, as.Devices...)
	for _, cpu := range as.CPUs {
		words = append(words, cpuWord(cpu))
	}
	f.call(strings.Join(words, " "))
	if state, _ := f.RunState(); state == "slow" {
		<-ctx.Done()
		f.call("canceled")
		return errors.New("canceled by client")
	}
	_, err := io.WriteString(to, "state")
	return err
}
func cpuWord(cpu int) string { return fmt.Sprintf("cpu%d", cpu) }

func (f *fakeMachine) CommitSave() error  { return f.call("commit") }
func (f *fakeMachine) AbandonSave() error { return f.call("abandon") }
func (f *fakeMachine) Dump(_ context.Context, to *os.File, live bool) error {
	defer to.Close()
	f.call(fmt.Sprint("dump ", live))
	_, err := io.WriteString(to, "core")
	return err
}
func (f *fakeMachine) Job() Job   { return Job{Kind: "save", Total: 7} }
func (f *fakeMachine) CancelJob() { f.call("cancel") }

// said waits until the machine heard want, all calls in one line.
func (f *fakeMachine) said(t *testing.T, want string) {
	t.Helper()
	got := ""
	for range 1000 {
		f.mu.Lock()
		got = strings.Join(f.calls, ", ")
		f.mu.Unlock()
		if got == want {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("the machine heard %q, want %q", got, want)
}

// sendFiles sends a command with descriptors.
func (p *peer) sendFiles(line string, files ...*os.File) {
	p.t.Helper()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := p.c.(*net.UnixConn).WriteMsgUnix([]byte(line+"\n"), unix.UnixRights(fds...), nil); err != nil {
		p.t.Fatal(err)
	}
}

// pipe returns a write end and a function that reads everything from the other.
func pipe(t *testing.T) (*os.File, func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return w, func() string {
		w.Close()
		r.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
}

func TestSaveAndCommit(t *testing.T) {
	_, m, path := serve(t)
	p := dial(t, path, true)
	w, text := pipe(t)
	p.sendFiles(`{"execute":"x-virtd-save","id":"1","arguments":{"devices":["net0"]}}`, w)
	if reply := p.line(); reply != `{"return":{},"id":"1"}` {
		t.Fatal(reply)
	}
	if got := text(); got != "state" {
		t.Errorf("written %q", got)
	}
	if reply := p.ask(`{"execute":"x-virtd-save-commit"}`); !strings.Contains(reply, "return") {
		t.Error(reply)
	}
	if reply := p.ask(`{"execute":"x-virtd-save-commit"}`); !strings.Contains(reply, "no saved state to keep") {
		t.Error(reply)
	}
	p.c.Close()
	q := dial(t, path, true)
	if reply := q.ask(`{"execute":"x-virtd-job"}`); !strings.Contains(reply, `"total":7`) {
		t.Error(reply)
	}
	m.said(t, "save net0, commit")
}

// TestSaveOfLostClient: what a client began, and did not keep, is taken back when it leaves, at whatever moment.
func TestSaveOfLostClient(t *testing.T) {
	for _, c := range []struct{ state, want string }{{"running", "save, abandon"}, {"slow", "save, canceled"}} {
		_, m, path := serve(t)
		m.set(c.state)
		p := dial(t, path, true)
		w, _ := pipe(t)
		p.sendFiles(`{"execute":"x-virtd-save"}`, w)
		if c.state == "running" {
			p.line()
		} else {
			m.said(t, "save")
			if reply := p.ask(`{"execute":"query-status"}`); !strings.Contains(reply, "return") {
				t.Errorf("a client with a save under way is told %s", reply)
			}
		}
		p.c.Close()
		m.said(t, c.want)
	}
}

func TestDumpCommand(t *testing.T) {
	_, m, path := serve(t)
	p := dial(t, path, true)
	w, text := pipe(t)
	p.sendFiles(`{"execute":"x-virtd-dump","arguments":{"live":true}}`, w)
	if reply := p.line(); !strings.Contains(reply, "return") {
		t.Error(reply)
	}
	if got := text(); got != "core" {
		t.Errorf("written %q", got)
	}
	p.c.Close()
	m.said(t, "dump true")
}

func TestSaveRefuses(t *testing.T) {
	_, m, path := serve(t)
	p := dial(t, path, true)
	w, _ := pipe(t)
	for _, c := range []struct {
		line  string
		files []*os.File
		want  string
	}{
		{`{"execute":"x-virtd-save"}`, nil, "0 descriptors came"},
		{`{"execute":"x-virtd-save"}`, []*os.File{w, w}, "2 descriptors came"},
		{`{"execute":"x-virtd-save","arguments":{"path":"/etc/passwd"}}`, []*os.File{w}, "unknown field"},
		{`{"execute":"x-virtd-dump","arguments":{"live":1}}`, []*os.File{w}, "arguments"},
		{`{"execute":"x-virtd-save-commit"}`, nil, "no saved state to keep"},
	} {
		if c.files == nil {
			fmt.Fprintln(p.c, c.line)
		} else {
			p.sendFiles(c.line, c.files...)
		}
		if reply := p.line(); !strings.Contains(reply, c.want) {
			t.Errorf("%s: %s", c.line, reply)
		}
	}
	m.set("slow")
	p.sendFiles(`{"execute":"x-virtd-save","id":"a"}`, w)
	p.sendFiles(`{"execute":"x-virtd-save","id":"b"}`, w)
	if reply := p.line(); !strings.Contains(reply, `"id":"b"`) || !strings.Contains(reply, "busy") {
		t.Error(reply)
	}
	p.c.Close()
	m.said(t, "save, canceled")
}
