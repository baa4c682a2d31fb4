package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"virtd/bench/ab"
)

// benchUDPLoss floods a guest with datagrams from its host, faster than it takes them, and tells how many it lost with each
// kind of back end. A back end in the kernel delivers when it likes; one in the engine is held up together with the guest, so
// that the tap's queue does not always fill. Nothing is promised: the figures say when to choose which.
func benchUDPLoss(h host) ([]ab.Result, error) {
	program, err := h.copyIn(h.load)
	if err != nil {
		return nil, err
	}
	var results []ab.Result
	for _, driver := range []string{"qemu", driverVhost} {
		r, err := h.udpLoss(program, driver)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", driver, err)
		}
		results = append(results, r...)
	}
	return results, nil
}

func (h host) udpLoss(program, driver string) ([]ab.Result, error) {
	remove, err := network(netBridge, 1, 2)
	if err != nil {
		return nil, err
	}
	defer remove()
	for i, start := range []func(guest) (*engine, error){h.start, h.startPeer} {
		g, err := h.netGuest(netHost{driver, 1}, i)
		if err != nil {
			return nil, err
		}
		e, err := ready(start, g)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", []string{"ours", "peer"}[i], err)
		}
		defer e.kill()
		if _, err := e.command("(/tmp/load serve >/dev/null 2>&1 &)"); err != nil {
			return nil, err
		}
		if err := waitFor(guestAddress(i) + ":9"); err != nil {
			return nil, err
		}
	}
	var measures []ab.Measure
	for _, size := range floodSizes {
		name := fmt.Sprintf("%s: datagrams of %d bytes host to guest", driver, size)
		measures = append(measures,
			ab.Measure{Name: name + ", sent", Unit: "Mbit/s", Better: ab.Higher},
			ab.Measure{Name: "  received", Unit: "Mbit/s", Better: ab.Higher},
			ab.Measure{Name: "  lost", Unit: "%", Better: ab.Lower})
	}
	sampler := func(side int) ab.Sampler {
		return func() ([]float64, error) {
			var out []float64
			for _, size := range floodSizes {
				text, err := exec.Command(program, "flood", guestAddress(side), fmt.Sprint(netSeconds), fmt.Sprint(size)).CombinedOutput()
				if err != nil {
					return nil, fmt.Errorf("%w: %s", err, text)
				}
				v, err := readFlood(string(text))
				if err != nil {
					return nil, err
				}
				out = append(out, v...)
			}
			return out, nil
		}
	}
	return ab.Compare(h.rounds, measures, sampler(0), sampler(1))
}

// floodSizes are of small and of full datagrams, in bytes.
var floodSizes = []int{64, 1448}

var floodLine = regexp.MustCompile(`FLOOD ([0-9.]+) ([0-9.]+) ([0-9.]+)`)

// readFlood returns the three numbers of a flood.
func readFlood(text string) ([]float64, error) {
	m := floodLine.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("no result in %q", text)
	}
	var out []float64
	for _, s := range m[1:] {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
