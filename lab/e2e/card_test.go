package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Cards of the lab, and the first virtual function of the igb card.
const (
	cardIGB    = "0000:01:00.0"
	cardE1000E = "0000:02:00.0"
	cardNVMe   = "0000:03:00.0"
	firstVF    = "0000:01:10.0"
)

// driverOf is the driver that a PCI function of the host has.
func driverOf(address string) string {
	to, err := os.Readlink("/sys/bus/pci/devices/" + address + "/driver")
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func (h *host) wantDriver(address, driver string) {
	h.t.Helper()
	if now := driverOf(address); now != driver {
		h.t.Errorf("%s has driver %q, want %q", address, now, driver)
	}
}

// labCards loads the drivers of the lab's cards.
func (h *host) labCards() {
	h.t.Helper()
	for _, module := range []string{"igb", "igbvf", "e1000e", "nvme"} {
		h.sh("modprobe " + module)
	}
	for address, driver := range map[string]string{cardIGB: "igb", cardE1000E: "e1000e", cardNVMe: "nvme"} {
		h.wantDriver(address, driver)
	}
}

// interfaceOf waits for the interface of a card of the host and returns its name.
func (h *host) interfaceOf(address string) string {
	h.t.Helper()
	var names []string
	h.until(time.Minute, "interface of "+address, func() bool {
		names, _ = filepath.Glob("/sys/bus/pci/devices/" + address + "/net/*")
		return len(names) == 1
	})
	return filepath.Base(names[0])
}

// addressed gives a card's interface an address, the only one that it has until the test ends, and returns its name.
func (h *host) addressed(address, network string) string {
	h.t.Helper()
	name := h.interfaceOf(address)
	h.ip("addr", "flush", "dev", name)
	h.ip("addr", "add", network, "dev", name)
	h.ip("link", "set", name, "up")
	h.t.Cleanup(func() { exec.Command("ip", "addr", "flush", "dev", name).Run() })
	return name
}

// rebind lets a function's driver look again at what it was given.
func (h *host) rebind(address string) {
	h.t.Helper()
	h.vctl("nodedev", "detach", nodeDevice(address))
	h.vctl("nodedev", "reattach", nodeDevice(address))
}

// nodeDevice is the name of a PCI function's node device.
func nodeDevice(address string) string {
	return "pci_" + strings.NewReplacer(":", "_", ".", "_").Replace(address)
}

// functions makes virtual functions of the igb card and returns their addresses; they are gone after the test. The card's
// interface must be up for them.
func (h *host) functions(count int) (vfs []string) {
	h.t.Helper()
	const pf = "/sys/bus/pci/devices/" + cardIGB
	if err := os.WriteFile(pf+"/sriov_numvfs", []byte(fmt.Sprint(count)), 0); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { os.WriteFile(pf+"/sriov_numvfs", []byte("0"), 0) })
	for i := range count {
		to, err := os.Readlink(fmt.Sprintf("%s/virtfn%d", pf, i))
		if err != nil {
			h.t.Fatal(err)
		}
		vfs = append(vfs, filepath.Base(to))
	}
	return vfs
}

// cardState is what must be as before when a card comes back to the host: its driver, and the addresses of its interfaces or the
// serial numbers of its disks. Their names are udev's to give again, and the lab has none.
func (h *host) cardState(address string) string {
	state := "driver " + driverOf(address)
	for _, pattern := range []string{"/net/*/address", "/nvme/*/serial"} {
		files, _ := filepath.Glob("/sys/bus/pci/devices/" + address + pattern)
		for _, file := range files {
			text, _ := os.ReadFile(file)
			state += ", " + filepath.Base(file) + " " + strings.TrimSpace(string(text))
		}
	}
	return state
}

// wantCard waits until a card is as it was.
func (h *host) wantCard(address, before string) {
	h.t.Helper()
	end := time.Now().Add(time.Minute)
	now := h.cardState(address)
	for now != before && time.Now().Before(end) {
		time.Sleep(100 * time.Millisecond)
		now = h.cardState(address)
	}
	if now != before {
		h.t.Errorf("%s comes back with %s, had %s", address, now, before)
	}
}

// lineWith returns the first line of text that contains s.
func lineWith(text, s string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, s) {
			return line
		}
	}
	return ""
}
