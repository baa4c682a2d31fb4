package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// Typing into a guest's console reaches its shell and the answer comes back, ^] leaves, and the guest goes through
// everything that its owner can do to it: suspend, resume, reset, reboot and shutdown.
func TestLabConsoleAndLifecycle(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh, labtest.Program("expect"))
	h := startHost(t)
	name := h.define(guest{name: "life", kernel: labtest.Kernel("6.12"), console: ptyWithLog(h.path("life.console"))})

	shells := 0
	shell := func(what string) {
		t.Helper()
		shells++
		h.until(150*time.Second, "shell after "+what, func() bool { return strings.Count(h.output(name), "LAB-GUEST: shell") >= shells })
		h.state(name, "running")
	}
	h.vctl("start", name)
	shell("start")
	typeIntoConsole(t, h, labtest.Binary(t, "vctl"), name)
	typeIntoConsole(t, h, "virsh", name)

	h.vctl("suspend", name)
	h.state(name, "paused (user)")
	h.vctl("resume", name)
	h.state(name, "running (unpaused)")
	typeIntoConsole(t, h, labtest.Binary(t, "vctl"), name)

	pid := h.engine(name)
	h.vctl("reset", name)
	shell("reset")
	h.vctl("reboot", name)
	shell("reboot")
	if strings.Count(h.output(name), "LAB-GUEST: power button") != 1 {
		t.Error("reboot did not ask the guest through its power button")
	}
	if got := h.engine(name); got != pid {
		t.Errorf("engine %d became %d over a reset and a reboot", pid, got)
	}
	h.vctl("shutdown", name)
	h.off(name, 60*time.Second)
	h.state(name, "shut off (shutdown)")
}

// start --console shows the boot from its first byte and ends with the guest.
func TestLabStartWithConsole(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Program("expect"))
	h := startHost(t)
	name := h.define(guest{name: "first", kernel: labtest.Kernel("6.1"), memory: 128, console: "<serial type='pty'/>", run: "echo done here"})
	out := expect(t, fmt.Sprintf(`spawn %s -c %s start --console %s
want "LAB-GUEST: userspace"
want "done here"
expect timeout {exit 98} eof
leave
`, labtest.Binary(t, "vctl"), h.uri(), name))
	if !strings.Contains(out, "Domain 'first' started") {
		t.Errorf("it said\n%s", out)
	}
	h.off(name, 30*time.Second)
}

// ptyWithLog is a console that people use, with a copy for host.output.
func ptyWithLog(file string) string {
	return "<serial type='pty'><log file='" + file + "' append='off'/></serial>"
}

// typeIntoConsole has a client open the console of a guest that is at its shell, types a command, and leaves with ^].
func typeIntoConsole(t *testing.T, h *host, client, name string) {
	t.Helper()
	expect(t, fmt.Sprintf(`spawn %s -c %s console %s
want "Escape character is"
sleep 2 ;# virsh says so before it takes the terminal, and drops what was typed until then
send "\r"
send {echo sum=$((6*7))}
send "\r"
want "sum=42"
send "\x1d"
expect timeout {exit 98} eof
leave
`, client, h.uri(), name))
}

// expect runs an expect script with two words of ours, "want TEXT" and "leave" for the program's exit status, and fails
// the test unless it ends well.
func expect(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("expect", "-c", `set timeout 120
proc want {text} { expect -ex $text {} timeout {exit 97} eof {puts "END before $text"; exit 96} }
proc leave {} { lassign [wait] pid spawn os status; exit $status }
`+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("expect: %v (97, 98: time is up)\n%s\nsaid\n%s", err, script, out)
	}
	return string(out)
}
