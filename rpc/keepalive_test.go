package rpc_test

import (
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

func TestKeepaliveWhileCallsHangAndTheQueueIsLong(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	conn := rawDial(t, b)
	conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectOpen}, &libvirt.ConnectOpenArgs{}))
	for i := range uint32(40) {
		conn.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainCreate, Serial: i}, &libvirt.DomainCreateArgs{}))
	}
	for range 5 {
		<-b.inside
	}
	conn.Write(message(rpc.Header{Program: rpc.ProgramKeepalive, Procedure: 1, Type: rpc.TypeMessage}, nil))
	r := rpc.NewFrameReader(conn, 0)
	for {
		h, _, _, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Program == rpc.ProgramKeepalive {
			if h.Procedure != 2 || h.Type != rpc.TypeMessage || h.Serial != 0 {
				t.Errorf("got %+v, want a pong", h)
			}
			break
		}
	}
	close(b.block)
}

func TestKeepaliveOfTheServer(t *testing.T) {
	b := newTestbed(t, rpc.Options{KeepaliveInterval: 20 * time.Millisecond, KeepaliveCount: 3}, rpc.Policy{})
	good := b.open(t)
	if err := call(good, rpc.ProcConnectSupportsFeature, &libvirt.ConnectSupportsFeatureArgs{Feature: 10}, nil); err != nil {
		t.Fatal(err)
	}
	mute := rawDial(t, b)
	mute.Write(message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcConnectSupportsFeature}, &libvirt.ConnectSupportsFeatureArgs{Feature: 10}))
	r := rpc.NewFrameReader(mute, 0)
	pings := 0
	for {
		h, _, _, err := r.Next()
		if err != nil {
			break // disconnected
		}
		if h.Program == rpc.ProgramKeepalive && h.Procedure == 1 {
			pings++
		}
	}
	if pings != 3 {
		t.Errorf("%d pings before the connection was closed, want 3", pings)
	}
	hostname(t, good)
}
