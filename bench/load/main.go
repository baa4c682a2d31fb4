package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// Ports of the servers.
const (
	echoPort = "7"
	sinkPort = "9"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "serve" {
		return serve()
	}
	if len(args) < 3 {
		return fmt.Errorf("usage: load serve | load tcp|udp ADDRESS SECONDS | load flood ADDRESS SECONDS SIZE")
	}
	seconds, err := strconv.Atoi(args[2])
	if err != nil || seconds < 1 {
		return fmt.Errorf("%q is no number of seconds", args[2])
	}
	d := time.Duration(seconds) * time.Second
	switch {
	case args[0] == "tcp" || args[0] == "udp":
		times, err := ask(args[0], args[1], d)
		if err != nil {
			return err
		}
		fmt.Printf("RR %.1f %.1f %.1f\n", float64(len(times))/d.Seconds(), micro(times, 0.5), micro(times, 0.99))
		return nil
	case args[0] == "flood" && len(args) == 4:
		size, err := strconv.Atoi(args[3])
		if err != nil || size < 1 || size > 65507 {
			return fmt.Errorf("%q is no size of a datagram", args[3])
		}
		sent, got, took, err := flood(args[1], d, size)
		if err != nil {
			return err
		}
		rate := func(n uint64) float64 { return float64(n) * float64(size) * 8 / took.Seconds() / 1e6 }
		fmt.Printf("FLOOD %.2f %.2f %.2f\n", rate(sent), rate(got), 100*float64(sent-min(got, sent))/float64(sent))
		return nil
	}
	return fmt.Errorf("unknown request %q", args)
}
