package main

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(100-i)*time.Microsecond)
	}
	if a, b := micro(times, 0.5), micro(times, 0.99); a != 51 || b != 100 {
		t.Errorf("median %v, 99th %v", a, b)
	}
	if one := micro(times[:1], 0.99); one != 100 {
		t.Errorf("of one %v", one)
	}
}

// pipe is a server's end and a client's, through the kernel.
func pipe(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// TestCounting: the sink counts what comes, and the count that a client takes is one that has settled.
func TestCounting(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- sink(c.(*net.UDPConn)) }()
	server, client := pipe(t)
	go count(server)
	before, err := counted(client)
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for range 7 {
		if _, err := out.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := settled(client); err != nil || n-before != 7 {
		t.Errorf("%d datagrams of 7, %v", n-before, err)
	}
	c.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the sink ends with %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"serve", "x"}, {"tcp", "127.0.0.1", "0"}, {"flood", "127.0.0.1", "1"}, {"flood", "127.0.0.1", "1", "70000"}, {"what", "a", "1"}} {
		if run(args) == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
