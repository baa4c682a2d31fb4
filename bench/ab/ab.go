package ab

import (
	"fmt"
	"slices"
)

// Direction says which values are better.
type Direction string

// Directions.
const (
	Lower  Direction = "lower is better"
	Higher Direction = "higher is better"
)

// A Measure names what is compared and what was promised about it.
type Measure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Better Direction `json:"better"`
	// RatioBound is what ours/peer must not pass (from below when Higher is better); 0 promises nothing.
	RatioBound float64 `json:"ratioBound,omitempty"`
	// ValueBound is what our own value must not pass; 0 promises nothing.
	ValueBound float64 `json:"valueBound,omitempty"`
}

// A Result is a measure with its samples: Ours[i] and Peer[i] were taken next to each other.
type Result struct {
	Measure
	Ours []float64 `json:"ours"`
	Peer []float64 `json:"peer"`
}

// A Sampler does the work once and returns the value of each measure, in order.
type Sampler func() ([]float64, error)

// A Pair is what is compared: the values of the measures on both sides. Ours is nil for what only the peer can do.
type Pair struct {
	Measures   []Measure
	Ours, Peer Sampler
}

// Compare takes rounds samples of both sides, alternately. It stops at the first error, saying whose it was; the results are
// those of the rounds before, if there was one.
func Compare(rounds int, measures []Measure, ours, peer Sampler) ([]Result, error) {
	return CompareAll(rounds, Pair{measures, ours, peer})
}

// CompareAll does so with several pairs at once, one after the other in each round, so that they can be compared with each
// other too. The results are in the order of the pairs.
func CompareAll(rounds int, pairs ...Pair) ([]Result, error) {
	var results []Result
	first := make([]int, len(pairs)) // result of each pair
	for i, p := range pairs {
		first[i] = len(results)
		for _, m := range p.Measures {
			results = append(results, Result{Measure: m})
		}
	}
	for round := range rounds {
		for i, p := range pairs {
			if err := p.sample(results[first[i]:first[i]+len(p.Measures)], round%2 == 1); err != nil {
				return whole(results, round), fmt.Errorf("round %d: %w", round+1, err)
			}
		}
	}
	return results, nil
}

// whole keeps the samples of that many rounds.
func whole(results []Result, rounds int) []Result {
	if rounds == 0 {
		return nil
	}
	for i := range results {
		r := &results[i]
		r.Ours, r.Peer = r.Ours[:min(rounds, len(r.Ours))], r.Peer[:min(rounds, len(r.Peer))]
	}
	return results
}

// sample adds a value of each side to the pair's results.
func (p Pair) sample(results []Result, peerFirst bool) error {
	take := func(side string, s Sampler, put func(*Result, float64)) error {
		if s == nil {
			return nil
		}
		v, err := s()
		if err != nil {
			return fmt.Errorf("%s: %w", side, err)
		}
		if len(v) != len(results) {
			return fmt.Errorf("%s: %d values for %d measures", side, len(v), len(results))
		}
		for i := range results {
			put(&results[i], v[i])
		}
		return nil
	}
	a := func() error { return take("ours", p.Ours, func(r *Result, v float64) { r.Ours = append(r.Ours, v) }) }
	b := func() error { return take("peer", p.Peer, func(r *Result, v float64) { r.Peer = append(r.Peer, v) }) }
	if peerFirst {
		a, b = b, a
	}
	if err := a(); err != nil {
		return err
	}
	return b()
}

// Median returns the middle of the values, the mean of the two middle ones when their number is even, and 0 for none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// Ratio returns ours/peer: of the medians, and the least and greatest of the rounds.
func (r Result) Ratio() (median, least, greatest float64) {
	per := make([]float64, len(r.Ours))
	for i := range per {
		per[i] = r.Ours[i] / r.Peer[i]
	}
	if len(per) == 0 {
		return 0, 0, 0
	}
	return Median(r.Ours) / Median(r.Peer), slices.Min(per), slices.Max(per)
}

// Verdict is how a result stands to its bound.
type Verdict string

// Verdicts.
const (
	NoBound Verdict = "-"
	Kept    Verdict = "kept"
	// Unclear: the median passes the bound, but not every round does.
	Unclear Verdict = "within spread"
	Missed  Verdict = "MISSED"
)

// Verdict compares the result with what was promised; of two promises the worse counts.
func (r Result) Verdict() Verdict {
	out := NoBound
	if r.RatioBound != 0 {
		m, lo, hi := r.Ratio()
		out = worse(out, r.judge(r.RatioBound, m, lo, hi))
	}
	if r.ValueBound != 0 && len(r.Ours) > 0 {
		out = worse(out, r.judge(r.ValueBound, Median(r.Ours), slices.Min(r.Ours), slices.Max(r.Ours)))
	}
	return out
}

func (r Result) judge(bound, median, least, greatest float64) Verdict {
	if r.Better == Higher {
		bound, median, least = -bound, -median, -greatest
	}
	switch {
	case median <= bound:
		return Kept
	case least <= bound:
		return Unclear
	}
	return Missed
}

func worse(a, b Verdict) Verdict {
	order := []Verdict{NoBound, Kept, Unclear, Missed}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}
