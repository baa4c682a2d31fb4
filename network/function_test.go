package network_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"virtd/network"
	"virtd/network/networktest"
	"virtd/network/portconf"
	"virtd/virterr"
)

// vf is a virtual function of the card at 01:00.0.
func vf(slot, number uint8) portconf.Function {
	return portconf.Function{Bus: 1, Slot: slot, Number: number}
}

const vfPoolXML = "<network><name>vfs</name><forward mode='hostdev' managed='yes'><driver name='vfio'/><pf dev='enp1s0'/></forward>" +
	"<portgroup name='red'><vlan><tag id='42'/></vlan></portgroup></network>"

func request(name, domain string) network.Request {
	return network.Request{Network: name, Owner: network.Owner{Name: domain, UUID: uuid.New()}, MAC: "52:54:00:00:00:01"}
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

// A pool of a card's virtual functions gives each port one, says who has them when it is used up, takes them back, and is the
// same after a restart of virtd. What runs lists them; the definition does not.
func TestFunctionPool(t *testing.T) {
	host, dir := &networktest.Fake{}, t.TempDir()
	m := openManager(t, host, dir)
	n, err := m.Define(vfPoolXML)
	ok(t, err)
	err = n.Start()
	fails(t, err, "operation failed: network 'vfs' has no devices to give: the host has no PCI card with the interface 'enp1s0'")
	host.SetFunctions("enp1s0")
	if err := n.Start(); err == nil || !strings.Contains(err.Error(), "No usable Vf's present on SRIOV PF enp1s0") {
		t.Errorf("a card without functions: %v", err)
	}
	host.SetFunctions("enp1s0", vf(0x10, 0), vf(0x10, 2))
	red := request("vfs", "a")
	red.Group = "red"
	a, err := m.Connect(red) // which starts it
	ok(t, err)
	b, err := m.Connect(request("vfs", "b"))
	ok(t, err)
	if a.Function != "0000:01:10.0" || b.Function != "0000:01:10.2" || !a.Managed || a.VLAN.Tags[0] != 42 || b.VLAN.Given() {
		t.Errorf("ports %+v and %+v", a, b)
	}
	contains(t, a.XML(), "<plug type='hostdev-pci' managed='yes'>", "<driver name='vfio'/>",
		"<address domain='0x0000' bus='0x01' slot='0x10' function='0x0'/>", "<tag id='42'/>")
	full := "internal error: network 'vfs' requires exclusive access to interfaces, but none are available: all 2 devices are in use " +
		"(0000:01:10.0 is with domain 'a'; 0000:01:10.2 is with domain 'b')"
	_, err = m.Connect(request("vfs", "c"))
	fails(t, err, full)

	m = reopen(t, m, host, dir)
	_, err = m.Connect(request("vfs", "c"))
	fails(t, err, full)
	n, err = m.LookupByName("vfs")
	ok(t, err)
	text, err := n.XML(false)
	ok(t, err)
	contains(t, text, "<network connections='2'>", "<forward mode='hostdev' managed='yes'>", "<pf dev='enp1s0'/>",
		"<address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x2' connections='1'/>")
	again, err := m.Define(text) // a running network's document defines the same
	ok(t, err)
	text, err = again.XML(true)
	ok(t, err)
	if strings.Contains(text, "<address") || strings.Contains(text, "connections") {
		t.Errorf("the definition lists what runs:\n%s", text)
	}
	m.Retain(map[uuid.UUID]bool{b.UUID: true}) // a's domain ended while virtd was away
	c, err := m.Connect(request("vfs", "c"))
	ok(t, err)
	if c.Function != "0000:01:10.0" {
		t.Errorf("the function that was given back is not given out: %+v", c)
	}
	host.SetFunctions("enp1s0") // somebody pulls the card
	text, err = n.XML(false)
	ok(t, err)
	contains(t, text, "slot='0x10' function='0x0' connections='1'/>", "slot='0x10' function='0x2' connections='1'/>")
}

// A function that others have, or that the host needs, is passed over, and told of when there is no other. Pools may share.
func TestFunctionPoolShares(t *testing.T) {
	host := &networktest.Fake{}
	host.SetFunctions("enp1s0", vf(0x10, 0), vf(0x10, 2), vf(0x10, 4))
	host.SetFunctionBusy(vf(0x10, 0), errors.New("PCI device 0000:01:10.0 is in use by driver QEMU, domain x"))
	m := openManager(t, host, t.TempDir())
	_, err := m.Define(vfPoolXML)
	ok(t, err)
	_, err = m.Define("<network><name>one</name><forward mode='hostdev'><address type='pci' domain='0' bus='1' slot='0x10' function='2'/></forward></network>")
	ok(t, err)
	p, err := m.Connect(request("vfs", "a"))
	ok(t, err)
	if p.Function != "0000:01:10.2" {
		t.Errorf("port %+v", p)
	}
	_, err = m.Connect(request("one", "b"))
	fails(t, err, "internal error: network 'one' requires exclusive access to interfaces, but none are available: all 1 devices are in use (0000:01:10.2 is with domain 'a')")
	_, err = m.Connect(request("vfs", "b"))
	ok(t, err)
	_, err = m.Connect(request("vfs", "c"))
	fails(t, err, "internal error: network 'vfs' requires exclusive access to interfaces, but none are available: none of its 3 devices is free "+
		"(PCI device 0000:01:10.0 is in use by driver QEMU, domain x; 0000:01:10.2 is with domain 'a'; 0000:01:10.4 is with domain 'b')")
}

// Domains that start at once never get the same function.
func TestFunctionPoolAtOnce(t *testing.T) {
	host := &networktest.Fake{}
	var list []portconf.Function
	for i := range uint8(8) {
		list = append(list, vf(0x10, i))
	}
	host.SetFunctions("enp1s0", list...)
	m := openManager(t, host, t.TempDir())
	n, err := m.Define(vfPoolXML)
	ok(t, err)
	ok(t, n.Start())
	var wg sync.WaitGroup
	got := make(chan string, 20)
	for range cap(got) {
		wg.Go(func() {
			if p, err := m.Connect(request("vfs", "d")); err == nil {
				got <- p.Function
			} else if !virterr.Is(err, virterr.InternalError) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(got)
	seen := map[string]bool{}
	for f := range got {
		if seen[f] {
			t.Errorf("%s is given twice", f)
		}
		seen[f] = true
	}
	if len(seen) != len(list) {
		t.Errorf("%d of %d functions are given", len(seen), len(list))
	}
}

// What a virtual function cannot do for an interface is refused, and takes none.
func TestFunctionPoolRefuses(t *testing.T) {
	host := &networktest.Fake{}
	host.SetFunctions("enp1s0", vf(0x10, 0))
	m := openManager(t, host, t.TempDir())
	_, err := m.Define(vfPoolXML)
	ok(t, err)
	for want, change := range map[string]func(*network.Request){
		"bandwidth settings are not supported for hostdev interfaces":                        func(r *network.Request) { r.Limits.In.Average = 1000 },
		"<port isolated='yes'/> is not supported for network interfaces with type='hostdev'": func(r *network.Request) { r.Isolated = true },
		"vlan trunking is not supported by SR-IOV network devices":                           func(r *network.Request) { r.VLAN = portconf.VLAN{Tags: []uint16{1, 2}, Trunk: true} },
		"network 'vfs' has no portgroup 'blue'":                                              func(r *network.Request) { r.Group = "blue" },
	} {
		r := request("vfs", "a")
		change(&r)
		if _, err := m.Connect(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	_, err = m.Connect(request("vfs", "a"))
	ok(t, err)
}
