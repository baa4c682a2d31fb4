package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
)

// datagrams counts what came to the sink. It never goes back: clients take differences.
var datagrams atomic.Uint64

// serve answers for as long as the process lives.
func serve() error {
	echoTCP, err := net.Listen("tcp", ":"+echoPort)
	if err != nil {
		return err
	}
	countTCP, err := net.Listen("tcp", ":"+sinkPort)
	if err != nil {
		return err
	}
	echoUDP, err := net.ListenPacket("udp", ":"+echoPort)
	if err != nil {
		return err
	}
	sinkUDP, err := net.ListenPacket("udp", ":"+sinkPort)
	if err != nil {
		return err
	}
	ended := make(chan error, 4)
	go func() { ended <- accept(echoTCP, echo) }()
	go func() { ended <- accept(countTCP, count) }()
	go func() { ended <- echoDatagrams(echoUDP.(*net.UDPConn)) }()
	go func() { ended <- sink(sinkUDP.(*net.UDPConn)) }()
	return <-ended
}

func accept(l net.Listener, do func(net.Conn)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			do(c)
		}()
	}
}

// echo returns each byte that came.
func echo(c net.Conn) {
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
		if _, err := c.Write(b[:]); err != nil {
			return
		}
	}
}

// count tells the number of datagrams for each byte that came.
func count(c net.Conn) {
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, datagrams.Load())); err != nil {
			return
		}
	}
}

func echoDatagrams(c *net.UDPConn) error {
	var b [64]byte
	for {
		n, from, err := c.ReadFromUDPAddrPort(b[:])
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(b[:n], from) // lost answers are asked for again
		}
	}
}

func sink(c *net.UDPConn) error {
	b := make([]byte, 65536)
	for {
		if _, _, err := c.ReadFromUDPAddrPort(b); err == nil {
			datagrams.Add(1)
		} else if errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}
