package main

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"virtd/network/bridge"
	"virtd/network/hostnet"
	"virtd/virterr"
)

// fakeBridges are bridges in memory. eth0 has the host's addresses.
type fakeBridges struct {
	mu        sync.Mutex
	list      []hostnet.Bridge
	confirmed []string
	waits     time.Duration
}

func (f *fakeBridges) Bridges() ([]hostnet.Bridge, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list, nil
}

func (f *fakeBridges) Create(c bridge.BridgeConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, hostnet.Bridge{Name: c.Name, MTU: max(c.MTU, 1500), Up: true, STP: c.STP, VLANs: c.VLANFiltering})
	return nil
}

func (f *fakeBridges) Delete(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, b := range f.list {
		if b.Name == name {
			f.list = append(f.list[:i], f.list[i+1:]...)
			return nil
		}
	}
	return virterr.New(virterr.OperationInvalid, "no bridge '%s'", name)
}

func (f *fakeBridges) AddPort(name, port string, wait time.Duration) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits = wait
	f.list[0].Ports, f.list[0].Addresses = []string{port}, []string{"192.0.2.1/24"}
	return port == "eth0", nil
}

func (f *fakeBridges) RemovePort(string, string, time.Duration) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list[0].Ports = nil
	return false, nil
}

func (f *fakeBridges) Confirm(port string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.confirmed = append(f.confirmed, port)
	return nil
}

// seen returns which ports were confirmed, and how long the last was waited for.
func (f *fakeBridges) seen() ([]string, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.confirmed), f.waits
}

func testLinks() ([]bridge.Link, error) {
	mac := net.HardwareAddr{0xfe, 0x54, 0, 0, 0, 1}
	return []bridge.Link{{Name: "eth0", Kind: "device"}, {Name: "vnet0", Kind: "tuntap", MTU: 1500, MAC: mac, Up: true, Bridge: "br0"}}, nil
}

func TestBridgeCommands(t *testing.T) {
	b := newBed(t)
	b.day([]line{
		{"bridge create br0 --stp --mtu 9000 --vlan-filtering", 0, `^Bridge 'br0' created\n$`},
		{"bridge create", 1, `^error: command 'bridge create' requires <name>`},
		{"bridge create br1 --mtu 5", 1, `MTU 5 must be from 68 to 65535`},
		{"bridge add-port br0 eth1", 0, `^'eth1' is a port of bridge 'br0'\n$`},
		{"bridge add-port br0 eth0 --yes --wait 7", 0, `^'eth0' is a port of bridge 'br0'\n$`},
		{"bridge add-port br0", 1, `^error: command 'bridge add-port' requires <link>`},
		{"bridge list", 0, `(?m)^ br0 +up +9000 +yes +yes +- +192.0.2.1/24 +eth0$`},
		{"-o json bridge list", 0, `"vlanFiltering": true`},
		{"bridge remove-port br0 eth0", 0, `^'eth0' is no port any more of bridge 'br0'\n$`},
		{"tap list", 0, `(?m)^ vnet0 +tuntap +up +1500 +br0 +- +-$`},
		{"bridge delete br0", 0, `^Bridge 'br0' deleted\n$`},
		{"bridge delete br0", 1, `^error: failed to delete bridge 'br0': .*no bridge 'br0'`},
		{"bridge nonsense", 1, `^error: unknown command: 'bridge nonsense'`},
	})
	if got := fmt.Sprint(b.bridges.seen()); got != "[eth0] 7s" {
		t.Errorf("confirmed and waited: %s", got)
	}
}

// TestBridgeConfirm: the change is confirmed by a line, and by nothing else.
func TestBridgeConfirm(t *testing.T) {
	b := newBed(t)
	if _, stderr, status := b.run("", "bridge", "create", "br0"); status != 0 {
		t.Fatal(stderr)
	}
	_, stderr, status := b.run("", "bridge", "add-port", "br0", "eth0")
	confirmed, _ := b.bridges.seen()
	if status != 1 || !strings.Contains(stderr, "Press Enter within 30 seconds") || !strings.Contains(stderr, "is not confirmed and is taken back") || len(confirmed) != 0 {
		t.Errorf("without a line: %d %s %v", status, stderr, confirmed)
	}
	stdout, stderr, status := b.run("\n", "bridge", "add-port", "br0", "eth0")
	confirmed, _ = b.bridges.seen()
	if status != 0 || stdout != "'eth0' is a port of bridge 'br0'\n" || len(confirmed) != 1 {
		t.Errorf("with a line: %d %s%s %v", status, stdout, stderr, confirmed)
	}
}
