package main

import (
	"fmt"

	"virtd/bench/ab"
)

// netSide is one engine's guests, of which the first asks.
type netSide struct {
	name   string
	guests []*engine
}

// netSides are our engine's side and the peer's.
type netSides [2]netSide

// netSides starts the guests of both sides. start starts one side's, by its argument; those that it returns with an error are
// killed.
func (h host) netSides(start func(side int, launch func(guest) (*engine, error)) ([]*engine, error)) (netSides, error) {
	sides := netSides{{name: "ours"}, {name: "peer"}}
	for i, launch := range []func(guest) (*engine, error){h.start, h.startPeer} {
		var err error
		if sides[i].guests, err = start(i, launch); err != nil {
			sides.kill()
			return netSides{}, fmt.Errorf("%s: %w", sides[i].name, err)
		}
	}
	return sides, nil
}

func (s netSides) kill() {
	for _, side := range s {
		for _, e := range side.guests {
			e.kill()
		}
	}
}

// compare runs jobs on both sides, while the guests of the other idle. address is whom a side's guest asks.
func (s netSides) compare(rounds int, name string, jobs []netJob, address func(side int) string) ([]ab.Result, error) {
	var measures []ab.Measure
	for _, j := range jobs {
		measures = append(measures,
			ab.Measure{Name: name + ": " + j.name, Unit: j.unit, Better: j.better, RatioBound: 1},
			ab.Measure{Name: "  processor time", Unit: j.per, Better: ab.Lower})
	}
	sampler := func(i int) ab.Sampler {
		return func() ([]float64, error) { return s[i].sample(jobs, address(i)) }
	}
	return ab.Compare(rounds, measures, sampler(0), sampler(1))
}

// sample runs the jobs once.
func (s netSide) sample(jobs []netJob, address string) (values []float64, err error) {
	for _, j := range jobs {
		value, used, err := j.run(s.guests[0], s.guests, address)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.name, j.name, err)
		}
		values = append(values, value, used.Seconds()*1e3/j.work(value))
	}
	return values, nil
}
