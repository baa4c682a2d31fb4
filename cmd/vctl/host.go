package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"virtd/release"
	"virtd/rpc"
)

func hostCommands() []*cli.Command {
	return []*cli.Command{
		{Name: "version", Category: "Host", Usage: "print the versions of vctl and of the daemon", Action: withSession(versions)},
		{Name: "host-check", Category: "Host", Usage: "tell whether the host can run guests, and what to do where not",
			Description: "Exits with 1 when no Linux guest can run.", Action: hostCheck},
	}
}

func versions(c *cli.Context, s *session) error {
	hv, err := s.ConnectGetVersion()
	if err != nil {
		return err
	}
	lib, err := s.ConnectGetLibVersion()
	if err != nil {
		return err
	}
	host, err := s.ConnectGetHostname()
	if err != nil {
		return err
	}
	data := map[string]string{"vctl": release.Version, "library": dotted(lib), "hypervisor": dotted(hv), "host": host, "uri": s.target.uri.Redacted()}
	return emit(c, data, func(w io.Writer) error {
		return describe(w, []field{{"vctl", data["vctl"]}, {"Library", "libvirt " + data["library"]},
			{"Hypervisor", "QEMU " + data["hypervisor"]}, {"Host", host}, {"URI", data["uri"]}})
	})
}

// dotted prints a version that libvirt packs as major*1000000 + minor*1000 + release.
func dotted(v uint64) string {
	return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000)
}

// checked is one row of host-check.
type checked struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`
	Remedy  string `json:"remedy,omitempty"`
}

func hostCheck(c *cli.Context) error {
	var ret rpc.PrivHostCheckRet
	if err := callPrivate(c, true, rpc.PrivProcHostCheck, &rpc.PrivHostCheckArgs{}, &ret); err != nil {
		return fmt.Errorf("host-check (the daemon must be virtd): %w", err)
	}
	rows, failed := make([]checked, 0, len(ret.Items)), false
	for _, i := range ret.Items {
		rows = append(rows, checked{i.Name, i.Verdict, i.Detail, i.Remedy})
		failed = failed || i.Verdict == "fail"
	}
	err := emit(c, rows, func(w io.Writer) error {
		for _, r := range rows {
			fmt.Fprintf(w, "%-5s %-22s %s\n", r.Verdict, r.Name, r.Detail)
			if r.Remedy != "" {
				fmt.Fprintf(w, "%28s fix: %s\n", "", r.Remedy)
			}
		}
		return nil
	})
	if err == nil && failed {
		return errSilent
	}
	return err
}
