package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// DirtyRateRequest is a measurement to make (calc-dirty-rate). The machine checks it.
type DirtyRateRequest struct {
	Period      time.Duration
	Mode        string // page-sampling, dirty-bitmap, dirty-ring; "" is the first
	SamplePages int    // for each GiB; 0 is the default
}

// DirtyRate is the last measurement, or the one under way.
type DirtyRate struct {
	Status      string // unstarted, measuring, measured
	Mode        string
	Start       time.Time // zero before the first
	Period      time.Duration
	SamplePages int
	Rate        uint64 // bytes for each second, once measured
}

// timeUnits are QMP's TimeUnit.
var timeUnits = map[string]time.Duration{"": time.Second, "second": time.Second, "millisecond": time.Millisecond}

func timeUnit(name string) (time.Duration, error) {
	unit, ok := timeUnits[name]
	if !ok {
		return 0, fmt.Errorf("Parameter 'calc-time-unit' does not accept value '%s'", name)
	}
	return unit, nil
}

func calcDirtyRate(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Time        *int64 `json:"calc-time"`
		Unit        string `json:"calc-time-unit"`
		SamplePages *int   `json:"sample-pages"`
		Mode        string `json:"mode"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	unit, err := timeUnit(a.Unit)
	if err != nil {
		return nil, err
	}
	if a.Time == nil {
		return nil, errors.New("Parameter 'calc-time' is missing")
	}
	r := DirtyRateRequest{Mode: a.Mode}
	if most := int64(time.Hour / unit); *a.Time >= 0 { // what is more is out of range just as well, and must not wrap
		r.Period = time.Duration(min(*a.Time, most)) * unit
	}
	if a.SamplePages != nil {
		if r.SamplePages = *a.SamplePages; r.SamplePages == 0 {
			r.SamplePages = -1 // it was chosen, and is out of range
		}
	}
	return nil, s.machine.StartDirtyRate(r)
}

func queryDirtyRate(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Unit string `json:"calc-time-unit"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	unit, err := timeUnit(a.Unit)
	if err != nil {
		return nil, err
	}
	r := s.machine.DirtyRate()
	out := map[string]any{"status": r.Status, "mode": r.Mode, "start-time": startTime(r), "calc-time": int64(r.Period / unit),
		"calc-time-unit": "second", "sample-pages": r.SamplePages}
	if a.Unit != "" {
		out["calc-time-unit"] = a.Unit
	}
	if r.Status == "measured" {
		out["dirty-rate"] = r.Rate >> 20 // MB/s
	}
	return out, nil
}

// startTime is in seconds since 1970, 0 for never.
func startTime(r DirtyRate) int64 {
	if r.Start.IsZero() {
		return 0
	}
	return r.Start.Unix()
}

func infoDirtyRate(m Machine) (string, error) {
	r := m.DirtyRate()
	var b strings.Builder
	fmt.Fprintf(&b, "Status: %s\nStart Time: %d (s)\n", r.Status, startTime(r))
	if r.SamplePages != 0 {
		fmt.Fprintf(&b, "Sample Pages: %d (per GB)\n", r.SamplePages)
	}
	fmt.Fprintf(&b, "Period: %d (sec)\nMode: %s\nDirty rate: ", int64(r.Period/time.Second), r.Mode)
	if r.Status != "measured" {
		b.WriteString("(not ready)\n")
	} else {
		fmt.Fprintf(&b, "%d (MB/s)\n", r.Rate>>20)
	}
	return b.String(), nil
}

// humanDirtyRate is calc_dirty_rate [-r|-b] SECONDS [PAGES].
func humanDirtyRate(m Machine, arg string) (string, error) {
	var r DirtyRateRequest
	words := strings.Fields(arg)
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		mode, ok := map[string]string{"-r": "dirty-ring", "-b": "dirty-bitmap"}[words[0]]
		if !ok {
			return "", fmt.Errorf("unsupported option %s", words[0])
		}
		if r.Mode != "" && r.Mode != mode {
			return "", errors.New("Either dirty ring or dirty bitmap can be specified!")
		}
		r.Mode, words = mode, words[1:]
	}
	if len(words) == 0 || len(words) > 2 {
		return "", errors.New("Incorrect period length specified!")
	}
	seconds, err := strconv.ParseUint(words[0], 10, 16)
	if err != nil || seconds == 0 {
		return "", errors.New("Incorrect period length specified!")
	}
	if len(words) == 2 {
		if r.SamplePages, err = strconv.Atoi(words[1]); err != nil || r.SamplePages <= 0 {
			return "", fmt.Errorf("'%s' is not a number of pages", words[1])
		}
	}
	r.Period = time.Duration(seconds) * time.Second
	if err := m.StartDirtyRate(r); err != nil {
		return "", err
	}
	return fmt.Sprintf("Starting dirty rate measurement with period %d seconds\n[Please use 'info dirty_rate' to check results]\n", seconds), nil
}
