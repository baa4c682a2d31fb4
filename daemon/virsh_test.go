package daemon_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"virtd/driver"
)

var update = flag.Bool("update", false, "write what virsh printed into testdata/virsh")

// TestVirsh runs the scripts in testdata/virsh with an unmodified virsh. A script is a list of command lines; under each
// stand the exit status, when it is not 0, and what virsh prints, errors included. In what is expected, <*> stands for
// anything on the line.
//
//	$ virsh command line      runs virsh against the daemon
//	$ virsh-ro command line   the same on the read-only socket
//	$ EDITOR=x virsh edit ... sets the editor, a file in the testbed's directory
//	! guest ACTION DOMAIN     makes the guest do something
//	! wait STATE DOMAIN       waits for a state
//	! measured DOMAIN MIB     ends the measurement of the domain's dirty rate
//	! typed DOMAIN            prints what was typed at the guest's keyboard
//	! same FILE TEXT          the file in the testbed's directory holds that
func TestVirsh(t *testing.T) {
	if _, err := exec.LookPath("virsh"); err != nil {
		t.Skip("virsh is not installed (package libvirt-clients)")
	}
	runScripts(t, "testdata/virsh/*.txt", "virsh")
}

// TestVirsh11 runs the same with virsh 11.3. Where that prints something else, or nothing, the lines of virsh 9.0 begin with
// "9.0|" and those of virsh 11.3 with "11.3|". The scripts in testdata/virsh11 are of commands that virsh 9.0 lacks.
func TestVirsh11(t *testing.T) {
	if testing.Short() {
		t.Skip("the daemon's part is TestVirsh's")
	}
	virsh := unpacked(t, "backports", "virsh")
	pattern := "testdata/virsh/*.txt"
	if os.Getenv("VIRTD_FULL") == "" { // as .ci/full sets it
		pattern = "testdata/virsh/[cr]*.txt"
	}
	runScripts(t, pattern, virsh)
	runScripts(t, "testdata/virsh11/*.txt", virsh)
}

// of returns what a script expects of one version of virsh.
func of(newer bool, want string) string {
	mine, other := "9.0|", "11.3|"
	if newer {
		mine, other = other, mine
	}
	var out strings.Builder
	for line := range strings.Lines(want) {
		if rest, ok := strings.CutPrefix(line, mine); ok {
			out.WriteString(strings.TrimPrefix(rest, " "))
		} else if !strings.HasPrefix(line, other) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// shortScripts are what a short run, which is one with the race detector, has of the scripts: those in which goroutines meet.
var shortScripts = []string{"run", "hotplug", "network", "save", "storage", "secret", "rename", "nodedev-detach", "python-events", "python-streams"}

// runScripts runs each script that matches a pattern against a testbed of its own, with this virsh.
func runScripts(t *testing.T, pattern, virsh string) {
	scripts, err := filepath.Glob(pattern)
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts match %s", pattern)
	}
	for _, path := range scripts {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if testing.Short() && !slices.Contains(shortScripts, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newTestbed(t)
			b.virsh = virsh
			b.writeXML(t)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			for _, s := range parseScript(string(text)) {
				got, want := b.step(t, s), of(virsh != "virsh", s.want)
				if !matches(want, got) && !*update {
					t.Errorf("%s:%d: %s\ngot:\n%s\nwant:\n%s", path, s.line, s.command, got, want)
				}
				if matches(want, got) {
					got = s.want // keeps the wildcards
				}
				out.WriteString(s.before + s.command + "\n" + got)
			}
			if *update {
				if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// step is one command of a script.
type step struct {
	line    int
	before  string // comments and blank lines
	command string
	want    string
}

func parseScript(text string) []step {
	var steps []step
	before := ""
	for n, line := range strings.SplitAfter(text, "\n") {
		switch {
		case strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "! "):
			steps = append(steps, step{line: n + 1, before: before, command: strings.TrimSpace(line)})
			before = ""
		case strings.HasPrefix(line, "#"):
			before += line
		case len(steps) > 0 && before == "":
			steps[len(steps)-1].want += line
		}
	}
	return steps
}

// rule is the line under a table's head; its length follows from that of the testbed's directory.
var rule = regexp.MustCompile(`(?m)^-+$`)

// matches compares line by line; <*> in want matches anything.
func matches(want, got string) bool {
	want, got = rule.ReplaceAllString(want, "-"), rule.ReplaceAllString(got, "-")
	expr := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(want, "\n")), `<\*>`, `[^\n]*`)
	return regexp.MustCompile("^(?s:" + expr + ")$").MatchString(strings.TrimRight(got, "\n"))
}

func (b *testbed) step(t *testing.T, s step) string {
	fields := splitWords(s.command)
	switch {
	case fields[0] == "!" && fields[1] == "guest":
		b.guest(t, fields[2], fields[3])
		return ""
	case fields[0] == "!" && fields[1] == "same":
		if got, err := os.ReadFile(filepath.Join(b.dir, fields[2])); err != nil || string(got) != fields[3] {
			t.Errorf("line %d: %s holds %q (%v), want %q", s.line, fields[2], got, err, fields[3])
		}
		return ""
	case fields[0] == "!" && fields[1] == "measured":
		rate, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if !b.driver.Engine(fields[2]).Measure(rate) {
			t.Errorf("line %d: nothing is measured", s.line)
		}
		return ""
	case fields[0] == "!" && fields[1] == "typed":
		return strings.Join(b.driver.Engine(fields[2]).Typed(), "\n") + "\n\n"
	case fields[0] == "!":
		b.wait(t, fields[2], fields[3])
		return ""
	}
	switch strings.TrimSuffix(fields[1], "-ro") {
	case "virsh":
	default:
		if !strings.HasPrefix(fields[1], "EDITOR=") {
			return b.clientProgram(t, fields[1:])
		}
	}
	editor := "false"
	if e, ok := strings.CutPrefix(fields[1], "EDITOR="); ok {
		editor = filepath.Join(b.dir, e)
		fields = fields[1:]
	}
	sock := b.sock
	if fields[1] == "virsh-ro" {
		sock = b.ro
	}
	args := []string{"-c", "qemu:///system?socket=" + sock}
	if fields[1] == "virsh-ro" {
		args = append(args, "-r")
	}
	for _, f := range fields[2:] {
		args = append(args, strings.ReplaceAll(f, "$DIR", b.dir))
	}
	out, err := b.runVirsh(args, editor)
	refused := strings.HasPrefix(out, "error: Failed to ") || fields[2] == "dump" && strings.HasPrefix(out, "error: format '")
	if err != nil && err.Error() == "signal: killed" && refused && slices.Contains([]string{"dump", "save", "managedsave"}, fields[2]) {
		// The call is refused, by virtd or, as with a format that virsh does not know, by virsh itself: virsh says so, and does not
		// end, as its main loop was not there yet when its thread quit it, for all that virtd waited (see onWatched). The call did
		// nothing, and is made again. A virtd that does not answer is not excused: then virsh has said nothing.
		out, err = b.runVirsh(args, editor)
	}
	text := strings.TrimRight(strings.ReplaceAll(out, b.dir, "$DIR"), "\n") + "\n\n"
	if err != nil {
		text = fmt.Sprintf("[%v]\n%s", err, text)
	}
	return text
}

// runVirsh returns all that virsh prints, and how it ended if not well; it is killed when it takes too long.
func (b *testbed) runVirsh(args []string, editor string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.virsh, args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+b.dir, "EDITOR="+editor, "VISUAL="+editor)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// guest plays the guest's part.
func (b *testbed) guest(t *testing.T, action, name string) {
	t.Helper()
	e := b.driver.Engine(name)
	if e == nil {
		t.Fatalf("no engine runs %s", name)
	}
	switch action {
	case "poweroff":
		e.GuestPoweroff()
	case "reset":
		e.GuestReset()
	case "panic":
		e.GuestPanic()
	case "crash":
		e.Exit(driver.ExitCrashed, "signal: killed")
	case "stats":
		e.SetGuestStats(map[driver.MemoryStat]uint64{driver.StatFree: 300 << 20, driver.StatTotal: 500 << 20, driver.StatAvailable: 400 << 20})
	default:
		t.Fatalf("a guest cannot %s", action)
	}
}

// wait polls until a domain is in the state that virsh would print.
func (b *testbed) wait(t *testing.T, want, name string) {
	t.Helper()
	want = strings.ReplaceAll(want, "_", " ")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		dom, err := b.mgr.LookupByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if state, _ := dom.State(); state.String() == want {
			return
		}
	}
	t.Fatalf("%s is not %s after 20 s", name, want)
}

// splitWords splits at spaces; single quotes keep a word together.
func splitWords(line string) []string {
	var words []string
	var word strings.Builder
	quoted, started := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, started = !quoted, true
		case r == ' ' && !quoted:
			if started {
				words = append(words, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if started {
		words = append(words, word.String())
	}
	return words
}

func replace(s, old, with string) string { return strings.ReplaceAll(s, old, with) }
