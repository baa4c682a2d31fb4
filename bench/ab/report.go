package ab

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// A Report is what one run of benchmarks found, with where it ran.
type Report struct {
	Machine  string   `json:"machine"`
	Revision string   `json:"revision"`
	Date     string   `json:"date"`
	Peer     string   `json:"peer"`
	Results  []Result `json:"results"`
}

// WriteJSON writes the report with all samples.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// WriteTable writes the report for people: medians with the least and greatest sample, ratios, verdicts.
func (r Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "machine: %s\npeer: %s\nrevision %s, %s\n\n", r.Machine, r.Peer, r.Revision, r.Date)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "measure\tunit\tn\tours (min..max)\tpeer (min..max)\tours/peer (min..max)\tbound\tverdict")
	for _, x := range r.Results {
		ratio := "-" // a peer that measures zero has none, nor what only it can do
		if m, lo, hi := x.Ratio(); len(x.Ours) > 0 && len(x.Peer) > 0 && slices.Min(x.Peer) > 0 {
			ratio = fmt.Sprintf("%.2f (%.2f..%.2f)", m, lo, hi)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", x.Name, x.Unit, max(len(x.Ours), len(x.Peer)), span(x.Ours), span(x.Peer),
			ratio, x.bound(), x.Verdict())
	}
	return t.Flush()
}

// Missed counts the results that missed their bounds.
func (r Report) Missed() int {
	n := 0
	for _, x := range r.Results {
		if x.Verdict() == Missed {
			n++
		}
	}
	return n
}

func span(v []float64) string {
	if len(v) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.4g (%.4g..%.4g)", Median(v), slices.Min(v), slices.Max(v))
}

func (m Measure) bound() string {
	sign := "<="
	if m.Better == Higher {
		sign = ">="
	}
	out := ""
	if m.RatioBound != 0 {
		out = fmt.Sprintf("ratio %s %g", sign, m.RatioBound)
	}
	if m.ValueBound != 0 {
		if out != "" {
			out += ", "
		}
		out += fmt.Sprintf("ours %s %g", sign, m.ValueBound)
	}
	if out == "" {
		return "-"
	}
	return out
}
