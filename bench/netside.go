package main

import (
	"fmt"
	"os"

	"virtd/bench/ab"
)

// netSide is one engine's guests, of which the first asks. In the emulated lab a guest now and then dies or goes silent,
// whichever engine runs it: then all of the side are started anew, and it is counted.
type netSide struct {
	name   string
	start  func() ([]*engine, error)
	guests []*engine
	lost   int

	// lostGuest brings in order what the guests that were lost left behind; nil where that is nothing.
	lostGuest func() error
}

// netSides are our engine's side and the peer's.
type netSides [2]*netSide

// mostLost is how often guests of a side are started anew. With several CPUs the emulator of the lab now and then delivers an
// interrupt that VMRUN injected a second time, wherever the guest is by then: behind SYSCALL, still on the user's stack, it dies
// of a double fault. And it ends a guest's turn twice, and saves the host's state as the guest's: such a guest runs at the
// instruction behind VMRUN with the host's page tables until somebody ends it (exits tells).
const mostLost = 5

// netSides returns both sides, without guests yet. start starts one side's, by its argument; what it returns with an error is
// killed.
func (h host) netSides(start func(side int, launch func(guest) (*engine, error)) ([]*engine, error)) netSides {
	side := func(i int, name string, launch func(guest) (*engine, error)) *netSide {
		return &netSide{name: name, start: func() ([]*engine, error) { return start(i, launch) }}
	}
	return netSides{side(0, "ours", h.start), side(1, "peer", h.startPeer)}
}

func (s netSides) kill() {
	for _, side := range s {
		side.kill()
	}
}

func (s *netSide) kill() {
	for _, e := range s.guests {
		if e != nil {
			e.kill()
		}
	}
	s.guests = nil
}

// compare runs jobs on both sides, while the guests of the other idle. address is whom a side's guest asks. With the results it
// fails when more guests of ours were lost than of the peer: that is not the lab's doing alone.
func (s netSides) compare(rounds int, name string, jobs []netJob, address func(side int) string) ([]ab.Result, error) {
	var measures []ab.Measure
	for _, j := range jobs {
		measures = append(measures,
			ab.Measure{Name: name + ": " + j.name, Unit: j.unit, Better: j.better, RatioBound: 1},
			ab.Measure{Name: "  processor time", Unit: j.per, Better: ab.Lower})
	}
	for _, side := range s { // both are there before either is measured
		if err := side.ready(); err != nil {
			return nil, fmt.Errorf("%s: %w", side.name, err)
		}
	}
	sampler := func(i int) ab.Sampler {
		return func() ([]float64, error) { return s[i].sample(jobs, address(i)) }
	}
	results, err := ab.Compare(rounds, measures, sampler(0), sampler(1))
	fmt.Fprintf(os.Stderr, "bench: guests lost: %d of ours, %d of the peer\n", s[0].lost, s[1].lost)
	if err == nil && s[0].lost > s[1].lost {
		err = fmt.Errorf("our guests were lost %d times, the peer's %d times", s[0].lost, s[1].lost)
	}
	return results, err
}

// ready starts the guests where there are none.
func (s *netSide) ready() (err error) {
	for s.guests == nil {
		if s.guests, err = s.start(); err == nil {
			return nil
		}
		s.kill()
		if err = s.lose(err); err != nil {
			return err
		}
	}
	return nil
}

// sample runs the jobs once, all with the same guests.
func (s *netSide) sample(jobs []netJob, address string) ([]float64, error) {
	for {
		if err := s.ready(); err != nil {
			return nil, err
		}
		values, err := s.jobs(jobs, address)
		if err == nil {
			return values, nil
		}
		s.kill()
		if err := s.lose(err); err != nil {
			return nil, err
		}
	}
}

// lose counts guests that were lost, and returns the reason when there were too many.
func (s *netSide) lose(reason error) error {
	if s.lost++; s.lost > mostLost {
		return reason
	}
	fmt.Fprintf(os.Stderr, "bench: %s: guests start anew: %v\n", s.name, reason)
	if s.lostGuest == nil {
		return nil
	}
	return s.lostGuest()
}

func (s *netSide) jobs(jobs []netJob, address string) (values []float64, err error) {
	for _, j := range jobs {
		value, used, err := j.run(s.guests[0], s.guests, address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", j.name, err)
		}
		values = append(values, value, used.Seconds()*1e3/j.work(value))
	}
	return values, nil
}
