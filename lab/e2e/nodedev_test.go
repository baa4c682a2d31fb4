package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// output collects what a program prints while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// TestLabNodeDeviceCommands: virsh and vctl list real devices, and both are told of virtual functions that come, change and go.
func TestLabNodeDeviceCommands(t *testing.T) {
	labtest.Need(t, labtest.SRIOV, labtest.Virsh)
	const igb = "/sys/bus/pci/devices/0000:01:00.0"
	functions := func(number string) {
		t.Helper()
		if err := os.WriteFile(igb+"/sriov_numvfs", []byte(number), 0); err != nil {
			t.Fatal(err)
		}
	}
	h := startHost(t)
	h.sh("modprobe igb")
	functions("0")
	t.Cleanup(func() { os.WriteFile(igb+"/sriov_numvfs", []byte("0"), 0) })
	interfaces, err := filepath.Glob(igb + "/net/*")
	if err != nil || len(interfaces) != 1 {
		t.Fatalf("interfaces of the igb card: %v, %v", interfaces, err)
	}
	h.ip("link", "set", filepath.Base(interfaces[0]), "up")

	var printed output
	watch := exec.Command("virsh", "-c", h.uri(), "nodedev-event", "--event", "lifecycle", "--loop")
	watch.Env = append(os.Environ(), "LC_ALL=C")
	watch.Stdout, watch.Stderr = &printed, &printed
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		watch.Process.Kill()
		watch.Wait()
	}()
	const vf = "pci_0000_01_10_2"
	var told output
	vctl := exec.Command(h.program("vctl"), "-c", h.uri(), "nodedev", "event", vf)
	vctl.Stdout, vctl.Stderr = &told, &told
	if err := vctl.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		vctl.Process.Kill()
		vctl.Wait()
	}()
	// virsh does not say when it is ready: let the functions come and go until it and vctl print something.
	h.until(3*time.Minute, "event of a virtual function", func() bool {
		functions("2")
		h.until(time.Minute, "virtual function in the list", func() bool { return strings.Contains(h.virsh("nodedev-list", "--cap", "pci"), vf) })
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			const created = "event 'lifecycle' for node device " + vf + ": Created"
			if strings.Contains(printed.String(), created) && strings.Contains(told.String(), created) {
				return true
			}
		}
		functions("0")
		return false
	})
	for client, args := range map[string][]string{"virsh": {"nodedev-dumpxml", vf}, "vctl": {"nodedev", "dumpxml", vf}} {
		if text := h.must(client, args...); !strings.Contains(text, "<capability type='phys_function'>") {
			t.Errorf("%s says of a virtual function\n%s", client, text)
		}
	}
	for _, client := range []string{"virsh", "vctl"} {
		args := map[string][]string{"virsh": {"nodedev-list", "--tree"}, "vctl": {"nodedev", "list", "--tree"}}[client]
		if tree := h.must(client, args...); !strings.HasPrefix(tree, "computer\n") || !strings.Contains(tree, "_52_54_00_aa_00_01") {
			t.Errorf("%s shows\n%s", client, tree)
		}
	}
	h.sh("echo change > /sys/bus/pci/devices/0000:01:10.2/uevent")
	h.until(time.Minute, "event that the function changed", func() bool {
		return strings.Contains(told.String(), "event 'update' for node device "+vf+"\n")
	})
	functions("0")
	for _, o := range []*output{&printed, &told} {
		h.until(time.Minute, "event that the function is gone", func() bool {
			last := o.String()
			return strings.LastIndex(last, vf+": Deleted\n") > strings.LastIndex(last, vf+": Created\n")
		})
	}
	if strings.Contains(told.String(), "pci_0000_01_10_0") {
		t.Errorf("vctl was asked for one device and tells of others:\n%s", told.String())
	}
	h.refuses("no node device with matching name '"+vf+"'", "virsh", "nodedev-dumpxml", vf)
}
