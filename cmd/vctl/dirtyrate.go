package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// dirtyRateModes are libvirt's names for the ways to measure (virDomainDirtyRateCalcFlags).
var dirtyRateModes = map[string]uint32{
	"page-sampling": uint32(libvirt.DomainDirtyrateModePageSampling), "dirty-bitmap": uint32(libvirt.DomainDirtyrateModeDirtyBitmap),
}

func modeNames(*cli.Context, *session) []string {
	return slices.Sorted(maps.Keys(dirtyRateModes))
}

// dirtyRatePatience is how much longer than it was to take a measurement may take, on a host that is busy.
const dirtyRatePatience = 30 * time.Second

func dirtyRateCommand() *cli.Command {
	return &cli.Command{Name: "dirty-rate", Category: "Resources", Usage: "measure how fast a running domain dirties its memory", ArgsUsage: "DOMAIN",
		Description: "Waits for the result, in MiB a second. page-sampling compares some of each GiB's pages and costs next to nothing;\n" +
			"dirty-bitmap counts all pages of 4 KiB that were written, each once, and slows the guest's first write to each.\n\n" +
			"    vctl dirty-rate demo --seconds 10 --mode dirty-bitmap",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "seconds", Usage: "how long to measure, 1 to 60", Value: 1},
			&cli.StringFlag{Name: "mode", Usage: "page-sampling or dirty-bitmap", Value: "page-sampling"},
		},
		Action: withDomain(dirtyRate), BashComplete: complete(activeDomain)}
}

func dirtyRate(c *cli.Context, s *session, d libvirt.Domain) error {
	mode, ok := dirtyRateModes[c.String("mode")]
	if !ok {
		return fmt.Errorf("option --mode: '%s' is neither page-sampling nor dirty-bitmap", c.String("mode"))
	}
	seconds := c.Int("seconds")
	if err := s.DomainStartDirtyRateCalc(d, int32(min(seconds, 1<<30)), mode); err != nil {
		return fmt.Errorf("failed to measure the dirty rate of domain '%s': %w", d.Name, err)
	}
	ctx, cancel := context.WithTimeout(c.Context, time.Duration(seconds)*time.Second+dirtyRatePatience)
	defer cancel()
	rate, err := waitDirtyRate(ctx, s, d)
	if err != nil {
		return fmt.Errorf("failed to measure the dirty rate of domain '%s': %w", d.Name, err)
	}
	return emit(c, map[string]any{"name": d.Name, "seconds": seconds, "mode": c.String("mode"), "MiBPerSecond": rate}, func(w io.Writer) error {
		return describe(w, []field{{"Dirty rate", strconv.FormatInt(rate, 10) + " MiB/s"}})
	})
}

// waitDirtyRate polls until a measurement is done and returns its result.
func waitDirtyRate(ctx context.Context, s *session, d libvirt.Domain) (int64, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		records, err := s.ConnectGetAllDomainStats([]libvirt.Domain{d}, uint32(libvirt.DomainStatsDirtyrate), 0)
		if err != nil {
			return 0, err
		}
		stats := map[string]any{}
		for _, r := range records {
			for _, p := range r.Params {
				stats[p.Field] = p.Value.I
			}
		}
		switch stats[libvirt.DomainStatsDirtyrateCalcStatus] {
		case int32(libvirt.DomainDirtyrateMeasured):
			rate, _ := stats[libvirt.DomainStatsDirtyrateMegabytesPerSecond].(int64)
			return rate, nil
		case int32(libvirt.DomainDirtyrateMeasuring):
		case nil:
			return 0, errors.New("the domain went, or does not answer")
		default:
			return 0, errors.New("the engine gave it up; its log says why")
		}
		select {
		case <-ctx.Done():
			return 0, errors.New("it takes too long")
		case <-tick.C:
		}
	}
}
