package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// The commands that users type, with a running Debian guest: exit statuses and texts.
func TestLabVirshCommands(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh, labtest.Program("expect"))
	runScript(t, "testdata/virsh.txt")
}

// The same for vctl.
func TestLabVctlCommands(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Program("expect"))
	runScript(t, "testdata/vctl.txt")
}

// runScript executes a script with a virtd of its own. A script is a list of command lines; under each stand the exit
// status, when it is not 0, and what the client prints, errors included. In what is expected, <*> stands for anything
// on the line, and <**> for anything at all. $DIR is the host's folder, $UUID that of the domain demo.
//
//	$ virsh command line      runs a client against the daemon, likewise vctl; a line may start with NAME=VALUE
//	! shells N DOMAIN         waits until the guest came to its shell N times since the script began
//	! state STATE DOMAIN      waits for a state; underscores are spaces
//	! console CLIENT DOMAIN   types into the console
//	! events CLIENT           collects events from here on
//	! event TEXT              waits for one that contains the text
//	! sleep N
func runScript(t *testing.T, path string) {
	h := startHost(t)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h.file("demo.xml", guest{name: "demo", kernel: labtest.Kernel("6.1"), memory: 512, vcpus: 2,
		console: ptyWithLog(h.path("demo.console")), devices: "<memballoon model='virtio'><stats period='1'/></memballoon>"}.xml(h))
	h.file("broken.xml", "<domain type='kvm'>\n  <name>broken</name>\n  <memory>1024</memory\n</domain>\n")
	r := &scriptRun{h: h}
	for _, s := range parseScript(string(text)) {
		start := time.Now()
		got := r.step(t, s)
		if strings.Contains(s.want, "$UUID") {
			s.want = strings.ReplaceAll(s.want, "$UUID", h.uuid("demo"))
		}
		if !scriptMatches(s.want, got) {
			t.Errorf("%s:%d: %s\ngot:\n%s\nwant:\n%s", path, s.line, s.command, got, s.want)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Logf("%s:%d: %s took %v", path, s.line, s.command, d.Round(time.Second))
		}
	}
}

// scriptStep is one command of a script.
type scriptStep struct {
	line          int
	command, want string
}

func parseScript(text string) []scriptStep {
	var steps []scriptStep
	for n, line := range strings.SplitAfter(text, "\n") {
		switch {
		case strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "! "):
			steps = append(steps, scriptStep{line: n + 1, command: strings.TrimSpace(line)})
		case strings.HasPrefix(line, "#"):
		case len(steps) > 0:
			steps[len(steps)-1].want += line
		}
	}
	return steps
}

// rule is the line under a table's head.
var rule = regexp.MustCompile(`(?m)^-+$`)

func scriptMatches(want, got string) bool {
	want, got = rule.ReplaceAllString(want, "-"), rule.ReplaceAllString(got, "-")
	expr := regexp.QuoteMeta(strings.TrimSpace(want))
	expr = strings.ReplaceAll(expr, `<\*\*>`, `(?s:.*)`)
	expr = strings.ReplaceAll(expr, `<\*>`, `[^\n]*`)
	return regexp.MustCompile("^" + expr + "$").MatchString(strings.TrimSpace(got))
}

type scriptRun struct {
	h      *host
	events func() string
}

func (r *scriptRun) step(t *testing.T, s scriptStep) string {
	t.Helper()
	if strings.HasPrefix(s.command, "! ") {
		r.act(t, strings.Fields(s.command)[1:])
		return ""
	}
	command := strings.ReplaceAll(s.command[2:], "$DIR", r.h.dir)
	if strings.Contains(command, "$UUID") {
		command = strings.ReplaceAll(command, "$UUID", r.h.uuid("demo"))
	}
	// the shell does the quoting; the client's name becomes the client with its connection
	for client, program := range map[string]string{"virsh": "virsh", "vctl": labtest.Binary(t, "vctl")} {
		with := fmt.Sprintf("%s -c '%s' ", program, r.h.uri())
		if rest, ok := strings.CutPrefix(command, client+" "); ok {
			command = with + rest
		} else {
			command = strings.Replace(command, " "+client+" ", " "+with, 1)
		}
	}
	cmd := exec.Command("timeout", "100", "bash", "-c", command)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+r.h.dir, "TMPDIR="+r.h.dir)
	out, err := cmd.CombinedOutput()
	got := strings.ReplaceAll(string(out), r.h.dir, "$DIR")
	if err != nil {
		got = fmt.Sprintf("[%v]\n%s", err, got)
	}
	// virsh pads its tables and ends lists with blank lines, which say nothing
	return regexp.MustCompile(`(?m)[ \t]+$`).ReplaceAllString(got, "")
}

func (r *scriptRun) act(t *testing.T, words []string) {
	t.Helper()
	h := r.h
	switch words[0] {
	case "shells":
		n, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		h.until(150*time.Second, "shell "+words[1], func() bool { return strings.Count(h.output(words[2]), "LAB-GUEST: shell") >= n })
	case "state":
		want := strings.ReplaceAll(words[1], "_", " ")
		h.until(100*time.Second, want, func() bool { return strings.HasPrefix(h.vctl("domstate", "--reason", words[2]), want) })
	case "console":
		program := words[1]
		if program == "vctl" {
			program = labtest.Binary(t, "vctl")
		}
		typeIntoConsole(t, h, program, words[2])
	case "events":
		r.events = watchEventsWith(t, h, words[1])
	case "event":
		want := strings.Join(words[1:], " ")
		h.until(20*time.Second, "event "+want, func() bool { return strings.Contains(r.events(), want) })
	case "sleep":
		n, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(n) * time.Second)
	default:
		t.Fatalf("unknown action %q", words)
	}
}
