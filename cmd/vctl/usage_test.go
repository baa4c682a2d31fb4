package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every command shows its operands on --help, counts them, and answers a command line that makes no sense with one line on
// standard error and status 1. None of this needs a daemon.
func TestUsage(t *testing.T) {
	vctl := func(args ...string) (stdout, stderr string, status int) {
		var out, errs bytes.Buffer
		status = run(t.Context(), append([]string{"vctl", "-c", "qemu:///system?socket=/does/not/exist"}, args...), nil, &out, &errs)
		return out.String(), errs.String(), status
	}
	refuses := func(want string, args ...string) {
		t.Helper()
		stdout, stderr, status := vctl(args...)
		if status != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, want) {
			t.Errorf("vctl %s: %d, not 1 and %q\n%s%s", strings.Join(args, " "), status, want, stdout, stderr)
		}
	}
	for _, c := range manualEntries("", app(nil, nil, nil).Commands) {
		path := strings.Fields(c.Path)
		stdout, stderr, status := vctl(append(path, "--help")...)
		if status != 0 || stderr != "" || !strings.Contains(stdout, "vctl "+c.Path+" ") || !strings.Contains(stdout, c.ArgsUsage+"\n") {
			t.Errorf("vctl %s --help: %d\n%s%s", c.Path, status, stdout, stderr)
		}
		refuses("command '"+c.Path+"' doesn't support option --nonsense; see vctl "+c.Path+" --help", append(path, "--nonsense")...)
		if len(c.Subcommands) > 0 {
			refuses("unknown command: '"+c.Path+" nonsense'", append(path, "nonsense")...)
			continue
		}
		operands := strings.Fields(c.ArgsUsage)
		for i, name := range operands {
			if name[0] != '[' {
				refuses("requires <"+strings.ToLower(name)+">", append(path, operands[:i]...)...)
			}
		}
		if !strings.Contains(c.ArgsUsage, "…") {
			refuses("unexpected operand 'surplus'", append(append(path, operands...), "surplus")...)
		}
	}
	refuses("flag provided but not defined: -nonsense; vctl --help", "--nonsense")
	refuses("unknown command: 'nonsense'", "nonsense")
	refuses("needs an argument: -timeout; see vctl event --help", "event", "--timeout")
	refuses("no daemon listens", "start", "help") // a domain may have this name
}

// What commands print goes through emit, which knows JSON. The exceptions print what is no data.
func TestPrintedDataCanBeJSON(t *testing.T) {
	except := map[string]bool{"output.go": true, "shell.go": true, "complete.go": true, "lifecycle.go": true /* start --console */}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !except[f] && !strings.HasSuffix(f, "_test.go") && regexp.MustCompile(`Fprint\w*\(c\.App\.Writer`).Match(text) {
			t.Errorf("%s prints without emit or done", f)
		}
	}
}
