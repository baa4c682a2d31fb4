package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a datagram's answer may take before it counts as lost.
const patience = 200 * time.Millisecond

// ask sends a byte, waits for it to come back, and so on, and returns how long each took.
func ask(network, address string, d time.Duration) ([]time.Duration, error) {
	c, err := net.Dial(network, net.JoinHostPort(address, echoPort))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	times := make([]time.Duration, 0, 1<<16)
	var b [1]byte
	for end := time.Now().Add(d); time.Now().Before(end); {
		from := time.Now()
		if network == "udp" {
			if err := c.SetReadDeadline(from.Add(patience)); err != nil {
				return nil, err
			}
		}
		b[0]++
		sent := b[0]
		if _, err := c.Write(b[:]); err != nil {
			return nil, err
		}
		for b[0] = sent + 1; b[0] != sent; { // an answer that is late belongs to an earlier request
			if _, err = c.Read(b[:]); err != nil {
				break
			}
		}
		b[0] = sent
		switch {
		case err == nil:
			times = append(times, time.Since(from))
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		}
	}
	if len(times) == 0 {
		return nil, fmt.Errorf("%s answers nothing", address)
	}
	return times, nil
}

// micro returns a quantile of durations in microseconds.
func micro(times []time.Duration, q float64) float64 {
	s := slices.Sorted(slices.Values(times))
	return float64(s[min(int(q*float64(len(s))), len(s)-1)].Nanoseconds()) / 1e3
}

// flood sends datagrams as fast as the kernel takes them and asks how many arrived.
func flood(address string, d time.Duration, size int) (sent, got uint64, took time.Duration, err error) {
	counter, err := net.Dial("tcp", net.JoinHostPort(address, sinkPort))
	if err != nil {
		return 0, 0, 0, err
	}
	defer counter.Close()
	c, err := net.Dial("udp", net.JoinHostPort(address, sinkPort))
	if err != nil {
		return 0, 0, 0, err
	}
	defer c.Close()
	before, err := counted(counter)
	if err != nil {
		return 0, 0, 0, err
	}
	payload := make([]byte, size)
	from := time.Now()
	for time.Since(from) < d {
		switch _, err := c.Write(payload); {
		case err == nil:
			sent++
		case errors.Is(err, unix.ENOBUFS): // dropped here: the receiver has no part in it
		default:
			return 0, 0, 0, err
		}
	}
	took = time.Since(from)
	after, err := settled(counter)
	if err != nil {
		return 0, 0, 0, err
	}
	if sent == 0 {
		return 0, 0, 0, errors.New("nothing could be sent")
	}
	return sent, after - before, took, nil
}

// settled asks until nothing more arrives.
func settled(c net.Conn) (uint64, error) {
	last, err := counted(c)
	for err == nil {
		time.Sleep(patience)
		var n uint64
		if n, err = counted(c); n == last {
			return n, err
		}
		last = n
	}
	return 0, err
}

func counted(c net.Conn) (uint64, error) {
	if _, err := c.Write([]byte{1}); err != nil {
		return 0, err
	}
	var b [8]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b[:]), nil
}
