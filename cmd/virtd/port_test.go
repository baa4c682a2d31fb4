package main

import (
	"context"
	"strings"
	"syscall"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// TestPortsSurviveKill: a port that a client made is there after kill -9 of virtd, although no domain has it, and goes with the
// network. The network is one of macvtaps, which does nothing to the host; nobody makes any.
func TestPortsSurviveKill(t *testing.T) {
	dir := shortDir(t)
	p := startVirtd(t, dir, nil)
	call := func(procedure uint32, args, ret any) {
		t.Helper()
		if err := open(t, p.sock).Call(context.Background(), rpc.ProgramRemote, procedure, args, ret); err != nil {
			t.Fatal(err)
		}
	}
	var made libvirt.NetworkCreateXMLRet
	call(rpc.ProcNetworkCreateXML, &libvirt.NetworkCreateXMLArgs{XML: "<network><name>n</name><forward mode='vepa'><interface dev='lo'/></forward></network>"}, &made)
	var port libvirt.NetworkPortCreateXMLRet
	call(rpc.ProcNetworkPortCreateXML, &libvirt.NetworkPortCreateXMLArgs{OptNetwork: made.Net, XML: "<networkport><owner><name>appliance</name>" +
		"<uuid>aaaaaaaa-2222-4333-8444-000000000001</uuid></owner><mac address='52:54:00:00:01:01'/></networkport>"}, &port)
	p.end(t, syscall.SIGKILL)
	p = startVirtd(t, dir, nil)
	var text libvirt.NetworkPortGetXMLDescRet
	call(rpc.ProcNetworkPortGetXMLDesc, &libvirt.NetworkPortGetXMLDescArgs{Port: port.Port}, &text)
	if !strings.Contains(text.XML, "<name>appliance</name>") || !strings.Contains(text.XML, "<plug type='direct' dev='lo' mode='vepa'/>") {
		t.Errorf("after the kill:\n%s", text.XML)
	}
	call(rpc.ProcNetworkDestroy, &libvirt.NetworkDestroyArgs{Net: made.Net}, nil)
	p.end(t, syscall.SIGKILL)
	p = startVirtd(t, dir, nil)
	call(rpc.ProcNetworkCreateXML, &libvirt.NetworkCreateXMLArgs{XML: "<network><name>n</name><forward mode='vepa'><interface dev='lo'/></forward></network>"}, &made)
	var ports libvirt.NetworkListAllPortsRet
	call(rpc.ProcNetworkListAllPorts, &libvirt.NetworkListAllPortsArgs{OptNetwork: made.Net, NeedResults: 1}, &ports)
	if len(ports.Ports) != 0 {
		t.Errorf("ports after the network's stop: %v", ports.Ports)
	}
	call(rpc.ProcNetworkDestroy, &libvirt.NetworkDestroyArgs{Net: made.Net}, nil)
	p.end(t, syscall.SIGTERM)
}
