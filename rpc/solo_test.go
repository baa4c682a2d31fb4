package rpc_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
)

// askAlone makes so many calls that are answered at once that a thread of the server waits for the next one.
func askAlone(t *testing.T, c *client.Client) {
	t.Helper()
	for i := range 100 {
		var ret libvirt.DomainGetStateRet
		if err := call(c, rpc.ProcDomainGetState, &libvirt.DomainGetStateArgs{}, &ret); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
}

// gone waits until the server has n clients.
func gone(t *testing.T, b *testbed, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); b.server.Clients() > n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d clients are still there", b.server.Clients())
		}
	}
}

// TestEndsWhileAThreadWaits: when a thread waits for a client's next call, the end of either side ends it, and half a call
// holds up nobody.
func TestEndsWhileAThreadWaits(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *testbed, *client.Client){
		"the client leaves": func(_ *testing.T, _ *testbed, c *client.Client) { c.Close() },
		"the connection is closed": func(_ *testing.T, b *testbed, _ *client.Client) {
			(<-b.conns).CloseWhenIdle()
		},
		"the server stops": func(t *testing.T, b *testbed, _ *client.Client) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := b.server.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestbed(t, rpc.Options{}, rpc.Policy{})
			c := b.open(t)
			askAlone(t, c)
			end(t, b, c)
			gone(t, b, 0)
		})
	}
}

// TestHalfACall: a client that asked alone sends half a header and stalls, or half a call and leaves. The others are served,
// and the server stops.
func TestHalfACall(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	ask := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainGetState}, &libvirt.DomainGetStateArgs{})
	for _, part := range []int{3, 10, len(ask) - 1} {
		stalls, leaves := opened(t, b), opened(t, b)
		awaitReply(stalls)
		awaitReply(leaves)
		for range 20 {
			stalls.Write(ask)
			awaitReply(stalls)
		}
		stalls.Write(ask[:part])
		for range 20 {
			leaves.Write(ask)
			awaitReply(leaves)
		}
		leaves.Write(ask[:part])
		leaves.Close()
		askAlone(t, b.open(t))
		// what was half a call becomes a whole one
		stalls.Write(ask[part:])
		awaitReply(stalls)
		stalls.Write(ask[:part])
	}
}

// TestOpenDeadlineOfABusyClient: who has yet to open a connection does not escape the deadline by sending all the time.
func TestOpenDeadlineOfABusyClient(t *testing.T) {
	b := newTestbed(t, rpc.Options{OpenDeadline: 50 * time.Millisecond}, rpc.Policy{})
	conn := rawDial(t, b)
	go io.Copy(io.Discard, conn)
	list := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcAuthList}, nil)
	many := []byte(strings.Repeat(string(list), 1000))
	for {
		if _, err := conn.Write(many); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("it was never disconnected")
		} else if err != nil {
			break
		}
	}
	gone(t, b, 0)
}

// TestManyConnectionsTakeFewThreads: connections that ask, at once and one after the other, do not take a thread each, nor
// descriptors that stay.
func TestManyConnectionsTakeFewThreads(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	hostname(t, b.open(t))
	before, files := threads(t), descriptors(t)
	clients := make([]*client.Client, 200)
	for i := range clients {
		c, err := client.Dial(context.Background(), b.path)
		if err != nil {
			t.Fatal(err)
		}
		clients[i] = c
		if err := c.Open(context.Background(), "qemu:///system", false); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() { askAlone(t, c) })
	}
	all.Wait()
	for _, c := range clients[:20] {
		askAlone(t, c)
	}
	if n := threads(t); n > before+20 {
		t.Errorf("%d threads, %d before there were %d connections", n, before, len(clients))
	}
	for _, c := range clients {
		c.Close()
	}
	gone(t, b, 1)
	if n := descriptors(t); n > files {
		t.Errorf("%d descriptors, %d before", n, files)
	}
}

// threads counts those of this process.
func threads(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
