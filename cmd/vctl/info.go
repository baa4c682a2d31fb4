package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func infoCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "list", Category: "Information", Usage: "list domains: running ones, or as the flags say", Aliases: []string{"ls"},
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "running and shut off"},
				&cli.BoolFlag{Name: "inactive", Usage: "shut off only"},
				&cli.BoolFlag{Name: "autostart", Usage: "only those started at boot"},
				&cli.BoolFlag{Name: "persistent", Usage: "only defined ones"},
				&cli.BoolFlag{Name: "transient", Usage: "only those without a definition"},
				&cli.BoolFlag{Name: "name", Usage: "names only"},
				&cli.BoolFlag{Name: "uuid", Usage: "UUIDs only"},
			}, Action: withSession(list)},
		{Name: "dominfo", Category: "Information", Usage: "describe a domain", ArgsUsage: "DOMAIN", Action: withDomain(domInfo), BashComplete: complete(anyDomain)},
		{Name: "domstate", Category: "Information", Usage: "print a domain's state", ArgsUsage: "DOMAIN",
			Flags:  []cli.Flag{&cli.BoolFlag{Name: "reason", Usage: "and why it is in it"}},
			Action: withDomain(domState), BashComplete: complete(anyDomain)},
		{Name: "domstats", Category: "Information", Usage: "print the statistics of running domains, or of those named", ArgsUsage: "[DOMAIN…]",
			Action: withSession(domStats), BashComplete: complete(anyDomain)},
	}
}

func domInfo(c *cli.Context, s *session, d libvirt.Domain) error {
	state, maxMem, mem, vcpus, cpuTime, err := s.DomainGetInfo(d)
	if err != nil {
		return err
	}
	persistent, err := s.DomainIsPersistent(d)
	if err != nil {
		return err
	}
	auto, err := s.DomainGetAutostart(d)
	if err != nil {
		return err
	}
	messages, err := s.DomainGetMessages(d, 0)
	if err != nil {
		messages = nil // older daemons have none to give
	}
	data := map[string]any{"name": d.Name, "uuid": uuidText(d), "state": stateName(int32(state)), "vcpus": vcpus,
		"cpuTimeNs": cpuTime, "maxMemoryKiB": maxMem, "usedMemoryKiB": mem, "persistent": persistent != 0,
		"autostart": auto != 0, "messages": messages}
	if d.ID >= 0 {
		data["id"] = d.ID
	}
	return emit(c, data, func(w io.Writer) error {
		fields := []field{{"Id", idText(d)}, {"Name", d.Name}, {"UUID", uuidText(d)}, {"State", stateName(int32(state))},
			{"CPU(s)", strconv.Itoa(int(vcpus))}}
		if d.ID >= 0 {
			fields = append(fields, field{"CPU time", fmt.Sprintf("%.1fs", time.Duration(cpuTime).Seconds())})
		}
		fields = append(fields, field{"Max memory", fmt.Sprintf("%d KiB", maxMem)}, field{"Used memory", fmt.Sprintf("%d KiB", mem)},
			field{"Persistent", yesNo(persistent != 0)}, field{"Autostart", enabled(auto != 0)})
		for i, m := range messages {
			name := ""
			if i == 0 {
				name = "Messages"
			}
			fields = append(fields, field{name, m})
		}
		return describe(w, fields)
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func enabled(b bool) string {
	if b {
		return "enable"
	}
	return "disable"
}

func domState(c *cli.Context, s *session, d libvirt.Domain) error {
	state, reason, err := s.DomainGetState(d, 0)
	if err != nil {
		return err
	}
	data := map[string]string{"state": stateName(state), "reason": reasonName(state, reason)}
	return emit(c, data, func(w io.Writer) error {
		text := data["state"]
		if c.Bool("reason") {
			text += " (" + data["reason"] + ")"
		}
		_, err := fmt.Fprintln(w, text)
		return err
	})
}

// stats is one domain's statistics.
type stats struct {
	Name   string         `json:"name"`
	Params map[string]any `json:"stats"`
	order  []libvirt.TypedParam
}

func domStats(c *cli.Context, s *session) error {
	var domains []libvirt.Domain
	for _, arg := range c.Args().Slice() {
		d, err := s.domain(arg)
		if err != nil {
			return err
		}
		domains = append(domains, d)
	}
	records, err := s.ConnectGetAllDomainStats(domains, 0, 0)
	if err != nil {
		return err
	}
	out := make([]stats, 0, len(records))
	for _, r := range records {
		st := stats{Name: r.Dom.Name, Params: map[string]any{}, order: r.Params}
		for _, p := range r.Params {
			st.Params[p.Field] = p.Value.I
		}
		out = append(out, st)
	}
	return emit(c, out, func(w io.Writer) error {
		var b strings.Builder
		for _, st := range out {
			fmt.Fprintf(&b, "Domain: '%s'\n", st.Name)
			for _, p := range st.order {
				fmt.Fprintf(&b, "  %s=%v\n", p.Field, p.Value.I)
			}
			b.WriteByte('\n')
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}
