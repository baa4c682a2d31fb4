package monitor

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestDirtyRateCommands: what clients ask for reaches the machine, in its units, and what is wrong has QEMU's text.
func TestDirtyRateCommands(t *testing.T) {
	_, m, path := serve(t)
	p := dial(t, path, true)
	for _, c := range []struct{ args, call, fails string }{
		{args: `{"calc-time":1}`, call: "{1s  0}"},
		{args: `{"calc-time":1500,"calc-time-unit":"millisecond","mode":"dirty-bitmap"}`, call: "{1.5s dirty-bitmap 0}"},
		{args: `{"calc-time":2,"calc-time-unit":"second","mode":"page-sampling","sample-pages":1024}`, call: "{2s page-sampling 1024}"},
		{args: `{"calc-time":2,"sample-pages":0}`, call: "{2s  -1}"},
		{args: `{"calc-time":9223372036854775807}`, call: "{1h0m0s  0}"},
		{args: `{"calc-time":-1}`, call: "{0s  0}"},
		{args: `{}`, fails: "Parameter 'calc-time' is missing"},
		{args: `{"calc-time":1,"calc-time-unit":"year"}`, fails: "Parameter 'calc-time-unit' does not accept value 'year'"},
		{args: `{"calc-time":1,"pages":5}`, fails: "arguments: "},
	} {
		m.mu.Lock()
		m.calls = nil
		m.mu.Unlock()
		got := p.ask(`{"execute":"calc-dirty-rate","arguments":` + c.args + `}`)
		if c.fails != "" {
			if !strings.Contains(got, c.fails) || len(m.calls) != 0 {
				t.Errorf("%s: %s, calls %q", c.args, got, m.calls)
			}
			continue
		}
		if want := "dirty rate " + c.call; got != `{"return":{}}` || len(m.calls) != 1 || m.calls[0] != want {
			t.Errorf("%s: %s, calls %q, want %q", c.args, got, m.calls, want)
		}
	}
}

// TestQueryDirtyRate: a rate is told once there is one, in MiB a second.
func TestQueryDirtyRate(t *testing.T) {
	_, m, path := serve(t)
	p := dial(t, path, true)
	for _, c := range []struct {
		is              DirtyRate
		args, qmp, text string
	}{
		{DirtyRate{Status: "unstarted", Mode: "page-sampling"}, `{}`,
			`"calc-time":0,"calc-time-unit":"second","mode":"page-sampling","sample-pages":0,"start-time":0,"status":"unstarted"`,
			`Status: unstarted\r\nStart Time: 0 (s)\r\nPeriod: 0 (sec)\r\nMode: page-sampling\r\nDirty rate: (not ready)\r\n`},
		{DirtyRate{"measuring", "dirty-bitmap", time.Unix(77, 5), time.Second, 0, 0}, `{"calc-time-unit":"millisecond"}`,
			`"calc-time":1000,"calc-time-unit":"millisecond","mode":"dirty-bitmap","sample-pages":0,"start-time":77,"status":"measuring"`,
			`Status: measuring\r\nStart Time: 77 (s)\r\nPeriod: 1 (sec)\r\nMode: dirty-bitmap\r\nDirty rate: (not ready)\r\n`},
		{DirtyRate{"measured", "page-sampling", time.Unix(77, 5), 2100 * time.Millisecond, 512, 5<<20 + 1}, `{"calc-time-unit":"second"}`,
			`"calc-time":2,"calc-time-unit":"second","dirty-rate":5,"mode":"page-sampling","sample-pages":512,"start-time":77,"status":"measured"`,
			`Status: measured\r\nStart Time: 77 (s)\r\nSample Pages: 512 (per GB)\r\nPeriod: 2 (sec)\r\nMode: page-sampling\r\nDirty rate: 5 (MB/s)\r\n`},
	} {
		m.mu.Lock()
		m.dirtyRate = c.is
		m.mu.Unlock()
		if got, want := p.ask(`{"execute":"query-dirty-rate","arguments":`+c.args+`}`), `{"return":{`+c.qmp+`}}`; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got, want := p.ask(`{"execute":"human-monitor-command","arguments":{"command-line":"info dirty_rate"}}`), `{"return":"`+c.text+`"}`; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestHumanDirtyRate reads the options of the human monitor's command.
func TestHumanDirtyRate(t *testing.T) {
	_, m, path := serve(t)
	p := dial(t, path, true)
	for line, want := range map[string]string{
		"1":          "{1s  0}",
		"-b 2":       "{2s dirty-bitmap 0}",
		"-r 2":       "{2s dirty-ring 0}",
		"3 1024":     "{3s  1024}",
		"":           "",
		"0":          "",
		"-1":         "",
		"1 x":        "",
		"1 0":        "",
		"1 512 4":    "",
		"-b -r 1":    "",
		"-x 1":       "",
		"4294967296": "",
	} {
		m.mu.Lock()
		m.calls = nil
		m.mu.Unlock()
		got := p.ask(fmt.Sprintf(`{"execute":"human-monitor-command","arguments":{"command-line":"calc_dirty_rate %s"}}`, line))
		if want == "" {
			if len(m.calls) != 0 || !strings.Contains(got, "Error: ") {
				t.Errorf("%q: %s, calls %q", line, got, m.calls)
			}
		} else if len(m.calls) != 1 || m.calls[0] != "dirty rate "+want || !strings.Contains(got, "Starting dirty rate measurement") {
			t.Errorf("%q: %s, calls %q", line, got, m.calls)
		}
	}
}
