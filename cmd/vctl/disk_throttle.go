package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// throttleOption is an option of disk throttle. Its parameter is libvirt's name with underscores for dashes.
type throttleOption struct{ name, usage string }

var throttleOptions = func() (list []throttleOption) {
	for _, kind := range []struct{ unit, value, what string }{{"bytes", "SIZE", "bytes, with a unit (10MiB)"}, {"iops", "N", "requests"}} {
		for _, way := range []string{"total", "read", "write"} {
			name := way + "-" + kind.unit + "-sec"
			of := map[string]string{"total": "", "read": " that are read", "write": " that are written"}[way]
			list = append(list,
				throttleOption{name, "at most `" + kind.value + "` a second on average: " + kind.what + of},
				throttleOption{name + "-max", "up to `" + kind.value + "` a second in a burst"},
				throttleOption{name + "-max-length", "a burst lasts up to `SECONDS`"})
		}
	}
	return append(list, throttleOption{"size-iops-sec", "a request of more than `SIZE` bytes counts as several"},
		throttleOption{"group-name", "share the limits with the domain's disks of group `NAME`"})
}()

func throttleCommand() *cli.Command {
	cmd := &cli.Command{Name: "throttle", Usage: "show the limits of a disk's I/O, or change them", ArgsUsage: "DOMAIN TARGET", Flags: affectOptions(),
		Description: "TARGET is the disk's name, or its path. Options that are not given stay, except that those of bytes, and those of requests,\n" +
			"belong together: who sets a limit for reads takes away that of the total. 0 takes a limit away.\n\n" +
			"    vctl disk throttle demo vda --read-bytes-sec 10MiB --write-iops-sec 500",
		Action: withDomain(diskThrottle), BashComplete: complete(anyDomain, diskTargets)}
	for _, o := range throttleOptions {
		cmd.Flags = append(cmd.Flags, &cli.StringFlag{Name: o.name, Usage: o.usage})
	}
	return cmd
}

func diskThrottle(c *cli.Context, s *session, d libvirt.Domain) error {
	params, err := throttleParams(c)
	if err != nil {
		return err
	}
	if len(params) == 0 {
		return showThrottle(c, s, d)
	}
	if err := s.DomainSetBlockIOTune(d, c.Args().Get(1), params, affected(c)); err != nil {
		return fmt.Errorf("failed to change the limits of disk %s: %w", c.Args().Get(1), err)
	}
	return done(c, "Limits changed successfully")
}

// throttleParams are what the options say.
func throttleParams(c *cli.Context) ([]libvirt.TypedParam, error) {
	var list []libvirt.TypedParam
	for _, o := range throttleOptions {
		if !c.IsSet(o.name) {
			continue
		}
		text, p := c.String(o.name), libvirt.TypedParam{Field: strings.ReplaceAll(o.name, "-", "_")}
		if o.name == "group-name" {
			p.Value = *libvirt.NewTypedParamValueString(text)
			list = append(list, p)
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if size := strings.HasSuffix(o.name, "bytes-sec") || strings.HasSuffix(o.name, "bytes-sec-max") || o.name == "size-iops-sec"; size && n != 0 || err != nil {
			if !size {
				return nil, fmt.Errorf("option --%s: '%s' is not a number", o.name, text)
			}
			if n, err = parseSize(text); err != nil {
				return nil, fmt.Errorf("option --%s: %w", o.name, err)
			}
		}
		p.Value = *libvirt.NewTypedParamValueUllong(n)
		list = append(list, p)
	}
	return list, nil
}

// showThrottle prints the limits that there are, by libvirt's names.
func showThrottle(c *cli.Context, s *session, d libvirt.Domain) error {
	const stringOkay = 4 // VIR_TYPED_PARAM_STRING_OKAY
	disk := libvirt.OptString{c.Args().Get(1)}
	_, n, err := s.DomainGetBlockIOTune(d, disk, 0, affected(c)|stringOkay)
	if err != nil {
		return err
	}
	params, _, err := s.DomainGetBlockIOTune(d, disk, n, affected(c)|stringOkay)
	if err != nil {
		return err
	}
	data := map[string]any{}
	var rows [][]string
	for _, p := range params {
		data[p.Field] = p.Value.I
		if text := fmt.Sprint(p.Value.I); text != "0" && text != "" {
			rows = append(rows, []string{p.Field, text})
		}
	}
	return emit(c, data, func(w io.Writer) error {
		if len(rows) == 0 {
			_, err := fmt.Fprintln(w, "No limits")
			return err
		}
		return table(w, []string{"Limit", "Value"}, rows)
	})
}
