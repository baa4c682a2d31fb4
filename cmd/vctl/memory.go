package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func memoryCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "balloon", Category: "Resources", Usage: "show a domain's memory balloon, or move it", ArgsUsage: "DOMAIN [SIZE]",
			Description: "Without SIZE: what the guest has now, its maximum, and the guest's own statistics.\n" +
				"With SIZE (500MiB, 2GiB): asks the guest to keep that much and waits until it does, or says why it does not.\n\n" +
				"    vctl balloon demo 500MiB --timeout 2m",
			Flags: []cli.Flag{
				&cli.DurationFlag{Name: "timeout", Usage: "how long to wait for the guest", Value: time.Minute},
				&cli.BoolFlag{Name: "config", Usage: "change the definition too, so that the next start begins there"},
				&cli.BoolFlag{Name: "no-wait", Usage: "return once the guest was asked"},
			},
			Action: withDomain(balloon), BashComplete: complete(activeDomain)},
		dirtyRateCommand(),
		{Name: "setvcpus", Category: "Resources", Usage: "set the number of vCPUs of a domain", ArgsUsage: "DOMAIN COUNT",
			Description: "Without --live and --config: of the running domain, or of the definition of one that is off.\n" +
				"A running guest gives up only vCPUs that came while it ran, or that its definition calls hotpluggable.",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "maximum", Usage: "set the most that the domain can have"},
				&cli.BoolFlag{Name: "config", Usage: "change the definition (the default when the domain is off)"},
				&cli.BoolFlag{Name: "live", Usage: "change the running domain"},
				&cli.BoolFlag{Name: "hotpluggable", Usage: "let vCPUs that the definition gets go while the domain runs"},
			},
			Action: withDomain(setVcpus), BashComplete: complete(anyDomain)},
	}
}

// Tags of virDomainMemoryStatTags.
const (
	statActual = 6
	statUnused = 4
)

// memoryStatNames are virsh's names for virDomainMemoryStatTags, by number.
var memoryStatNames = []string{"swap_in", "swap_out", "major_fault", "minor_fault", "unused", "available", "actual", "rss",
	"usable", "last_update", "disk_caches", "hugetlb_pgalloc", "hugetlb_pgfail"}

func memoryStats(s *session, d libvirt.Domain) (map[int32]uint64, error) {
	list, err := s.DomainMemoryStats(d, uint32(len(memoryStatNames)), 0)
	if err != nil {
		return nil, err
	}
	out := make(map[int32]uint64, len(list))
	for _, st := range list {
		out[st.Tag] = st.Val
	}
	return out, nil
}

func balloon(c *cli.Context, s *session, d libvirt.Domain) error {
	if c.NArg() == 1 {
		return showBalloon(c, s, d)
	}
	return moveBalloon(c, s, d)
}

func showBalloon(c *cli.Context, s *session, d libvirt.Domain) error {
	_, maxKiB, _, _, _, err := s.DomainGetInfo(d)
	if err != nil {
		return err
	}
	st, err := memoryStats(s, d)
	if err != nil {
		return err
	}
	data := map[string]any{"name": d.Name, "maximumKiB": maxKiB}
	for tag, v := range st {
		if int(tag) < len(memoryStatNames) {
			data[memoryStatNames[tag]] = v
		}
	}
	return emit(c, data, func(w io.Writer) error {
		fields := []field{{"Actual", mib(st[statActual])}, {"Maximum", mib(maxKiB)}}
		for tag, name := range memoryStatNames {
			v, ok := st[int32(tag)]
			if !ok || tag == statActual {
				continue
			}
			switch name {
			case "unused", "available", "rss", "usable", "disk_caches", "swap_in", "swap_out":
				fields = append(fields, field{name, mib(v)})
			case "last_update":
				fields = append(fields, field{name, lastUpdate(v)})
			default:
				fields = append(fields, field{name, strconv.FormatUint(v, 10)})
			}
		}
		if _, ok := st[statUnused]; !ok {
			fields = append(fields, field{"Guest statistics", "none: the guest's balloon driver has not reported"})
		}
		return describe(w, fields)
	})
}

func lastUpdate(unix uint64) string {
	if unix == 0 {
		return "never"
	}
	return time.Unix(int64(unix), 0).Format(time.RFC3339)
}

func moveBalloon(c *cli.Context, s *session, d libvirt.Domain) error {
	bytes, err := parseSize(c.Args().Get(1))
	if err != nil {
		return err
	}
	want := bytes / 1024
	flags := uint32(libvirt.DomainMemLive)
	if c.Bool("config") {
		flags |= uint32(libvirt.DomainMemConfig)
	}
	if err := s.DomainSetMemoryFlags(d, want, flags); err != nil {
		return fmt.Errorf("failed to set the balloon of domain '%s': %w", d.Name, err)
	}
	if c.Bool("no-wait") {
		return done(c, "Domain '%s' was asked to keep %s", d.Name, mib(want))
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	actual, err := waitBalloon(ctx, s, d, want)
	if err != nil {
		return err
	}
	return done(c, "Domain '%s' has %s", d.Name, mib(actual))
}

// waitBalloon polls until the guest has want KiB, and else says why it does not: no driver, or a guest that needs its
// memory.
func waitBalloon(ctx context.Context, s *session, d libvirt.Domain, want uint64) (uint64, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var first uint64
	for n := 0; ; n++ {
		st, err := memoryStats(s, d)
		if err != nil {
			return 0, err
		}
		actual := st[statActual]
		if n == 0 {
			first = actual
		}
		if actual == want {
			return actual, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return actual, balloonStuck(d, st, first, want)
		}
	}
}

func balloonStuck(d libvirt.Domain, st map[int32]uint64, first, want uint64) error {
	actual := st[statActual]
	unused, reported := st[statUnused]
	reason := fmt.Sprintf("the guest went from %s to %s and is still moving; wait longer with --timeout", mib(first), mib(actual))
	switch {
	case actual == first && !reported:
		reason = "the guest has not answered: its balloon driver (virtio_balloon) is not loaded, or the guest is paused"
	case actual == first && want < actual:
		reason = fmt.Sprintf("the guest gives nothing back: it reports %s unused", mib(unused))
	case actual == first:
		reason = "the guest does not take memory back"
	}
	return fmt.Errorf("domain '%s' has %s, not %s: %s", d.Name, mib(actual), mib(want), reason)
}

func setVcpus(c *cli.Context, s *session, d libvirt.Domain) error {
	n, err := strconv.ParseUint(c.Args().Get(1), 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("invalid number of virtual CPUs: '%s'", c.Args().Get(1))
	}
	var flags uint32
	for name, bit := range map[string]libvirt.DomainVCPUFlags{"live": libvirt.DomainVCPULive, "config": libvirt.DomainVCPUConfig, "maximum": libvirt.DomainVCPUMaximum,
		"hotpluggable": libvirt.DomainVCPUHotpluggable} {
		if c.Bool(name) {
			flags |= uint32(bit)
		}
	}
	if c.Bool("maximum") && !c.Bool("live") {
		flags |= uint32(libvirt.DomainVCPUConfig)
	}
	if err := s.DomainSetVcpusFlags(d, uint32(n), flags); err != nil {
		return fmt.Errorf("failed to set the vCPUs of domain '%s': %w", d.Name, err)
	}
	return done(c, "Domain '%s' has %d vCPUs", d.Name, n)
}
