package main

import (
	"bytes"
	"strings"
	"testing"

	"virtd/bench/ab"
)

func TestHostProcessorTime(t *testing.T) {
	v, err := parseProcessorTime("cpu  100 20 300 4000 50 6 7 8 90 0\ncpu0 1 2\n")
	if err != nil || v != 4.41 { // guest time is in user time already
		t.Errorf("%v, %v", v, err)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 x 4 5 6 7 8"} {
		if v, err := parseProcessorTime(bad); err == nil {
			t.Errorf("%q is %v", bad, v)
		}
	}
	if v, err := hostTime(); err != nil || v <= 0 {
		t.Errorf("this host: %v, %v", v, err)
	}
}

func TestMeanTrip(t *testing.T) {
	m := meanTrip.FindStringSubmatch("rtt min/avg/max/mdev = 5.762/18.242/58.498/20.247 ms")
	if m == nil || m[1] != "18.242" {
		t.Errorf("%q", m)
	}
}

// The table of kinds has a line for each engine that has the kind, in the order of the measures.
func TestWriteKinds(t *testing.T) {
	var results []ab.Result
	for i, k := range interfaceKinds {
		for j := range interfaceMeasures {
			r := ab.Result{Peer: []float64{float64(100*i + 10*j + 1)}}
			if !k.peerOnly {
				r.Ours = []float64{float64(100*i + 10*j)}
			}
			results = append(results, r)
		}
	}
	var b bytes.Buffer
	if err := writeKinds(&b, results); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"", "interface engine start to driver ready, s round trip, µs TCP out, Mbit/s TCP in, Mbit/s host CPU, s/GB",
		"VF ours 0 10 20 30 40", "VF peer 1 11 21 31 41", "virtio ours 100 110 120 130 140", "virtio peer 101 111 121 131 141",
		"vhost ours 200 210 220 230 240", "vhost peer 201 211 221 231 241", "e1000e peer 301 311 321 331 341"}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("table:\n%s", b.String())
	}
}
