package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// An image is used by one machine: ours or QEMU's. Who refuses says who has it.
func TestLabImageLocks(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.QEMU)
	h := startHost(t)
	image := h.image("one.img", 16)
	k := labtest.Kernel("6.1")
	for _, name := range []string{"first", "second"} {
		h.define(guest{name: name, kernel: k, memory: 128, devices: disk(image, "vda", "")})
	}
	h.vctl("start", "--paused", "first")
	if out, status := qemu(image, "quit"); status == 0 || !strings.Contains(out, "lock") {
		t.Errorf("QEMU takes our image: status %d\n%s", status, out)
	}
	h.refuses("is in use by domain 'first'", "vctl", "start", "second")
	h.state("second", "shut off")
	h.vctl("destroy", "first")

	if out, status := qemu(image, "quit"); status != 0 {
		t.Fatalf("QEMU does not take a free image: status %d\n%s", status, out)
	}
	// QEMU keeps it while its monitor's input is open
	cmd := qemuCommand(image)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Process.Kill(); cmd.Wait() }()
	h.until(60*time.Second, "QEMU's prompt", func() bool { return strings.Contains(out.String(), "(qemu)") })
	h.refuses(fmt.Sprintf("pid %d", cmd.Process.Pid), "vctl", "start", "first")
	h.refuses("is in use by qemu-system", "virsh", "start", "first")
	if _, err := fmt.Fprintln(in, "quit"); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	h.vctl("start", "--paused", "first")

	// two readers share, a writer does not join them
	h.vctl("destroy", "first")
	for _, name := range []string{"reader1", "reader2"} {
		h.define(guest{name: name, kernel: k, memory: 128, devices: disk(image, "vda", "<readonly/>")})
		h.vctl("start", "--paused", name)
	}
	h.refuses("reader1", "vctl", "start", "first")
}

func qemuCommand(image string) *exec.Cmd {
	return exec.Command("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-S", "-m", "64", "-nodefaults", "-display", "none",
		"-monitor", "stdio", "-drive", "file="+image+",format=raw,if=virtio")
}

// qemu runs the peer with an image, stopped, and a command of its monitor.
func qemu(image, command string) (string, int) {
	cmd := qemuCommand(image)
	cmd.Stdin = strings.NewReader(command + "\n")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}
