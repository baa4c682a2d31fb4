package rpc_test

import (
	"context"
	"sync"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
)

// define makes a call that the reader of the client's connection answers, if no other is under way.
func define(c *client.Client) error {
	return call(c, rpc.ProcDomainDefineXMLFlags, &libvirt.DomainDefineXMLFlagsArgs{}, &libvirt.DomainDefineXMLFlagsRet{})
}

// inReader makes calls until the reader answers one: so it does the next, if nothing is under way. Now and then a call comes
// before the one ahead of it has left its lane.
func inReader(t *testing.T, b *testbed, c *client.Client) {
	t.Helper()
	before := b.inReader.Load()
	for range 5000 {
		if err := define(c); err != nil {
			t.Fatal(err)
		}
		if b.inReader.Load() > before {
			return
		}
	}
	t.Fatal("calls are not answered in the reader")
}

// TestReaderHandsOn: a call that hangs in the reader holds up nothing that comes behind it, time and again, and is answered
// in the end.
func TestReaderHandsOn(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	c := b.open(t)
	for range 3 {
		inReader(t, b, c)
		before := b.inReader.Load()
		hung := hang(t, b, c)
		if b.inReader.Load() == before {
			t.Fatal("the call that hangs is not in the reader")
		}
		for range 20 {
			hostname(t, c)
			if err := define(c); err != nil {
				t.Fatal(err)
			}
		}
		b.release <- struct{}{}
		hung.Wait()
	}
}

// hang makes a call that does not return before the test lets it, and returns when it is under way.
func hang(t *testing.T, b *testbed, c *client.Client) *sync.WaitGroup {
	t.Helper()
	b.hang.Store(true)
	var hung sync.WaitGroup
	hung.Go(func() {
		if err := define(c); err != nil {
			t.Errorf("the call that hung: %v", err)
		}
	})
	hanging(t, b)
	return &hung
}

// hanging waits until a call hangs.
func hanging(t *testing.T, b *testbed) {
	t.Helper()
	select {
	case <-b.hanging:
	case <-time.After(10 * time.Second):
		t.Fatal("the call does not reach its handler")
	}
}

// TestHungCallsKeepTheirPlaces: calls that hang in the reader count like others: as many run at once as may, and those that wait
// run when there is room.
func TestHungCallsKeepTheirPlaces(t *testing.T) {
	b := newTestbed(t, rpc.Options{ParallelCalls: 2}, rpc.Policy{})
	c := b.open(t)
	inReader(t, b, c)
	first, second := hang(t, b, c), hang(t, b, c)
	before := b.defines.Load()
	third := make(chan error, 1)
	go func() { third <- define(c) }()
	askAlone(t, c) // what needs no place is answered
	select {
	case err := <-third:
		t.Fatalf("a third call runs beside two that hang: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if n := b.defines.Load(); n != before {
		t.Errorf("%d calls run, not two", 2+n-before)
	}
	b.release <- struct{}{}
	if err := <-third; err != nil {
		t.Error(err)
	}
	b.release <- struct{}{}
	first.Wait()
	second.Wait()
}

// TestEndsWhileAReaderHangs: either side may end the connection while its reader answers a call.
func TestEndsWhileAReaderHangs(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *testbed, *client.Client){
		"the client leaves": func(_ *testing.T, b *testbed, c *client.Client) {
			c.Close()
			time.Sleep(50 * time.Millisecond) // the reader was replaced, and its successor has seen the end
			b.release <- struct{}{}
		},
		"the client leaves at once": func(_ *testing.T, b *testbed, c *client.Client) {
			c.Close()
			b.release <- struct{}{}
		},
		"the connection is closed": func(_ *testing.T, b *testbed, _ *client.Client) {
			(<-b.conns).CloseWhenIdle()
			b.release <- struct{}{}
		},
		"the server stops": func(t *testing.T, b *testbed, _ *client.Client) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			time.AfterFunc(50*time.Millisecond, func() { b.release <- struct{}{} })
			if err := b.server.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestbed(t, rpc.Options{}, rpc.Policy{})
			c := b.open(t)
			inReader(t, b, c)
			b.hang.Store(true)
			go define(c)
			hanging(t, b)
			end(t, b, c)
			gone(t, b, 0)
			if n := b.closed.Load(); n != 1 {
				t.Errorf("the end of the connection was told %d times", n)
			}
		})
	}
}

// TestPipelineRunsInParallel: the calls of a client that does not wait for answers run at once.
func TestPipelineRunsInParallel(t *testing.T) {
	b := newTestbed(t, rpc.Options{}, rpc.Policy{})
	conn := opened(t, b)
	one := message(rpc.Header{Program: rpc.ProgramRemote, Procedure: rpc.ProcDomainDefineXMLFlags, Serial: 1}, &libvirt.DomainDefineXMLFlagsArgs{})
	in := b.inReader.Load()
	var five []byte
	for range 5 {
		five = append(five, one...)
	}
	conn.Write(five)
	for replies, n := rpc.NewFrameReader(conn, 0), 0; n < 5; n++ {
		if _, _, _, err := replies.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.inReader.Load() - in; n > 1 { // the last has nothing behind it
		t.Errorf("%d of five calls that came at once were answered one after the other", n)
	}
}
