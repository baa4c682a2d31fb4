package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// TestLabPassthroughCycles: a domain has a virtual function, a network card and a disk, again and again: taken by virtd each time
// and detached by hand before, and ending by a client, by kill -9 of the engine, of virtd, and of both. Each time they come back
// with their drivers, interfaces and addresses, and the function with what the card was told to do for it.
func TestLabPassthroughCycles(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.SRIOV, labtest.Program("ip"))
	h := startHost(t)
	h.labCards()
	card := h.interfaceOf(cardIGB)
	h.ip("link", "set", card, "up")
	h.vctl("sriov", "create", card, "1")
	t.Cleanup(func() { os.WriteFile("/sys/bus/pci/devices/"+cardIGB+"/sriov_numvfs", []byte("0"), 0) })
	h.vctl("sriov", "set", firstVF, "--mac", "52:54:00:77:00:0a", "--vlan", "7", "--qos", "3", "--spoofchk", "off", "--trust", "on")
	c := cycle{host: h, card: card, before: map[string]string{}}
	h.rebind(firstVF)
	h.interfaceOf(firstVF)
	for _, address := range []string{firstVF, cardE1000E, cardNVMe} {
		c.before[address] = h.cardState(address)
	}
	c.settings = c.function()
	if want := "driver igbvf, address 52:54:00:77:00:0a"; c.before[firstVF] != want {
		t.Fatalf("the function has %s, want %s", c.before[firstVF], want)
	}
	var all []int
	for round := range 20 {
		all = append(all, round%waysToEnd)
	}
	ends := map[string][]int{"yes": all, "no": all} // by managed=''
	if testing.Short() {
		ends = map[string][]int{"yes": {engineKilled, bothKilled}, "no": {virtdKilled}}
	}
	for managed, list := range ends {
		c.name = h.define(guest{name: "cycle-" + managed, kernel: labtest.Kernel("6.12"),
			devices: functionNIC(firstVF, managed, "52:54:00:77:00:05", "<vlan><tag id='42'/></vlan>") + hostdev(cardE1000E, managed) + hostdev(cardNVMe, managed)})
		for round, end := range list {
			c.round(end, managed == "yes")
			if t.Failed() {
				t.Fatalf("in round %d, managed='%s'", round+1, managed)
			}
		}
	}
	if !testing.Short() { // TestLabHostdevWanted has it with a guest
		c.pulled()
	}
}

// cycle is a domain that has devices of the host for a while.
type cycle struct {
	*host
	name, card string
	before     map[string]string // cardState of each
	settings   string            // what the card does for the function
}

// function is what the card says about its first function.
func (c *cycle) function() string { return lineWith(c.ip("link", "show", c.card), "vf 0 ") }

// Ways that a domain ends in.
const (
	destroyed = iota
	engineKilled
	virtdKilled // and the next one destroys the domain
	bothKilled
	waysToEnd
)

// round has the devices once, until the domain ends in that way.
func (c *cycle) round(way int, managed bool) {
	c.t.Helper()
	if !managed {
		c.each(func(address string) { c.vctl("nodedev", "detach", nodeDevice(address)) })
	}
	c.vctl("start", "--paused", c.name)
	c.each(func(address string) { c.wantDriver(address, "vfio-pci") })
	if now := c.function(); !strings.Contains(now, "52:54:00:77:00:05") || !strings.Contains(now, "vlan 42") {
		c.t.Errorf("the card does for the guest's function: %s", now)
	}
	c.end(way)
	if !managed {
		c.each(func(address string) {
			c.wantDriver(address, "vfio-pci")
			c.vctl("nodedev", "reattach", nodeDevice(address))
		})
	}
	c.each(func(address string) { c.wantCard(address, c.before[address]) })
	if now := c.function(); now != c.settings {
		c.t.Errorf("the card does for the function\n%swant\n%s", now, c.settings)
	}
}

// end ends the domain.
func (c *cycle) end(way int) {
	c.t.Helper()
	switch pid := c.engine(c.name); way {
	case destroyed:
		c.vctl("destroy", c.name)
	case engineKilled:
		kill(c.t, pid)
		c.off(c.name, 30*time.Second)
	case virtdKilled:
		c.stopDaemon(syscall.SIGKILL)
		c.startDaemon()
		c.state(c.name, "paused")
		c.each(func(address string) { c.wantDriver(address, "vfio-pci") })
		c.vctl("destroy", c.name)
	case bothKilled:
		c.stopDaemon(syscall.SIGKILL)
		kill(c.t, pid)
		c.startDaemon()
		c.off(c.name, 30*time.Second)
	}
}

// each does something with each of the devices.
func (c *cycle) each(do func(address string)) {
	for _, address := range []string{firstVF, cardE1000E, cardNVMe} {
		do(address)
	}
}

// pulled takes devices away from under a guest that does not answer, past virtd: the network card out of the bus, which the host
// then finds again, and the function with the number of functions, which virtd makes again.
func (c *cycle) pulled() {
	c.t.Helper()
	name := c.define(guest{name: "pulled", kernel: labtest.Kernel("6.12"), devices: hostdev(cardE1000E, "yes") + functionNIC(firstVF, "yes", "52:54:00:77:00:05", "")})
	c.vctl("start", "--paused", name)
	const number = "/sys/bus/pci/devices/" + cardIGB + "/sriov_numvfs"
	for _, w := range [][2]string{{"/sys/bus/pci/devices/" + cardE1000E + "/remove", "1"}, {number, "0"}} {
		if err := os.WriteFile(w[0], []byte(w[1]), 0); err != nil { // returns when the engine has let go
			c.t.Fatal(err)
		}
	}
	c.until(time.Minute, "the devices leave the domain", func() bool { return !strings.Contains(c.vctl("dumpxml", name), "hostdev") })
	c.state(name, "paused")
	for address, xml := range map[string]string{cardE1000E: hostdev(cardE1000E, "yes"), firstVF: functionNIC(firstVF, "yes", "52:54:00:77:00:05", "")} {
		c.refuses(fmt.Sprintf("Device %s not found", address), "vctl", "device", "attach", name, c.file("pulled.xml", xml), "--live")
	}
	if err := os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0); err != nil {
		c.t.Fatal(err)
	}
	c.wantCard(cardE1000E, c.before[cardE1000E])
	c.vctl("destroy", name)
	c.vctl("sriov", "create", c.card, "1")
	c.vctl("start", "--paused", name)
	c.wantDriver(firstVF, "vfio-pci")
	c.vctl("destroy", name)
	c.wantDriver(firstVF, "igbvf")
}
