package ab

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := Median(c.in); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestCompareAlternates(t *testing.T) {
	var order string
	side := func(name string, v float64) Sampler {
		return func() ([]float64, error) { order += name; return []float64{v}, nil }
	}
	got, err := Compare(3, []Measure{{Name: "m"}}, side("a", 1), side("b", 2))
	if err != nil {
		t.Fatal(err)
	}
	if order != "abbaab" {
		t.Errorf("order %s, want abbaab", order)
	}
	want := []Result{{Measure: Measure{Name: "m"}, Ours: []float64{1, 1, 1}, Peer: []float64{2, 2, 2}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Pairs take their turns in each round, and what only the peer can do has no samples of ours.
func TestCompareAll(t *testing.T) {
	var order string
	side := func(name string, v ...float64) Sampler {
		return func() ([]float64, error) { order += name; return v, nil }
	}
	one, two, three := Measure{Name: "one"}, Measure{Name: "two"}, Measure{Name: "three"}
	got, err := CompareAll(2, Pair{[]Measure{one, two}, side("a", 1, 2), side("b", 3, 4)}, Pair{[]Measure{three}, nil, side("c", 5)})
	if err != nil {
		t.Fatal(err)
	}
	if order != "abcbac" {
		t.Errorf("order %s, want abcbac", order)
	}
	want := []Result{{one, []float64{1, 1}, []float64{3, 3}}, {two, []float64{2, 2}, []float64{4, 4}}, {three, nil, []float64{5, 5}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var b bytes.Buffer
	if err := (Report{Results: got}).WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	if last := strings.Fields(b.String()[strings.Index(b.String(), "three"):]); strings.Join(last, " ") != "three 2 - 5 (5..5) - - -" {
		t.Errorf("table:\n%s", b.String())
	}
}

func TestCompareErrors(t *testing.T) {
	ok := func() ([]float64, error) { return []float64{1}, nil }
	bad := func() ([]float64, error) { return nil, errors.New("no boot") }
	short := func() ([]float64, error) { return nil, nil }
	for _, c := range []struct {
		ours, peer Sampler
		want       string
	}{{bad, ok, "round 1: ours: no boot"}, {ok, bad, "round 1: peer: no boot"}, {ok, short, "round 1: peer: 0 values for 1 measures"}} {
		if _, err := Compare(2, []Measure{{Name: "m"}}, c.ours, c.peer); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

// What the rounds before an error found is there, and nothing of the one that it ended.
func TestCompareEndsEarly(t *testing.T) {
	n := 0
	dies := func() ([]float64, error) {
		if n++; n == 3 {
			return nil, errors.New("triple fault")
		}
		return []float64{float64(n)}, nil
	}
	ok := func() ([]float64, error) { return []float64{9}, nil }
	got, err := Compare(5, []Measure{{Name: "m"}}, ok, dies)
	if err == nil || len(got) != 1 || !slices.Equal(got[0].Ours, []float64{9, 9}) || !slices.Equal(got[0].Peer, []float64{1, 2}) {
		t.Errorf("results %v, error %v", got, err)
	}
}

func TestVerdict(t *testing.T) {
	peer := []float64{10, 10, 10}
	for _, c := range []struct {
		name string
		m    Measure
		ours []float64
		want Verdict
	}{
		{"no bound", Measure{Better: Lower}, []float64{99, 99, 99}, NoBound},
		{"kept", Measure{Better: Lower, RatioBound: 0.5}, []float64{4, 5, 9}, Kept},
		{"spread reaches it", Measure{Better: Lower, RatioBound: 0.5}, []float64{5, 6, 6}, Unclear},
		{"missed", Measure{Better: Lower, RatioBound: 0.5}, []float64{6, 6, 7}, Missed},
		{"higher kept", Measure{Better: Higher, RatioBound: 1}, []float64{9, 10, 11}, Kept},
		{"higher spread", Measure{Better: Higher, RatioBound: 1}, []float64{8, 9, 11}, Unclear},
		{"higher missed", Measure{Better: Higher, RatioBound: 1}, []float64{8, 9, 9.5}, Missed},
		{"value missed", Measure{Better: Lower, RatioBound: 1, ValueBound: 2}, []float64{3, 4, 5}, Missed},
		{"value kept", Measure{Better: Lower, ValueBound: 4}, []float64{3, 4, 5}, Kept},
	} {
		if got := (Result{c.m, c.ours, peer}).Verdict(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	r := Report{Machine: "lab", Peer: "qemu", Results: []Result{
		{Measure{"start", "s", Lower, 0.45, 0}, []float64{2, 3, 4}, []float64{6, 10, 8}},
	}}
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 (2..4)", "8 (6..10)", "0.38 (0.30..0.50)", "ratio <= 0.45", "kept"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, b.String())
		}
	}
	if r.Missed() != 0 {
		t.Error("a kept bound counts as missed")
	}
}
