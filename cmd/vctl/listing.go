package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// listed is one line of list.
type listed struct {
	ID         *int32 `json:"id"` // null when off
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	State      string `json:"state"`
	Persistent bool   `json:"persistent"`
	Autostart  bool   `json:"autostart"`
	dom        libvirt.Domain
}

func list(c *cli.Context, s *session) error {
	flags := libvirt.ConnectListDomainsActive
	switch {
	case c.Bool("all"):
		flags |= libvirt.ConnectListDomainsInactive
	case c.Bool("inactive"):
		flags = libvirt.ConnectListDomainsInactive
	}
	for name, bit := range map[string]libvirt.ConnectListAllDomainsFlags{
		"autostart": libvirt.ConnectListDomainsAutostart, "persistent": libvirt.ConnectListDomainsPersistent,
		"transient": libvirt.ConnectListDomainsTransient,
	} {
		if c.Bool(name) {
			flags |= bit
		}
	}
	domains, _, err := s.ConnectListAllDomains(1, flags)
	if err != nil {
		return err
	}
	out := make([]listed, 0, len(domains))
	for _, d := range domains {
		l, err := s.describeListed(d, c.String("output") == "json")
		if err != nil {
			continue // it went away since the list was made
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b listed) int {
		if (a.ID == nil) != (b.ID == nil) { // running ones first, by id, then the others by name
			if a.ID != nil {
				return -1
			}
			return 1
		}
		if a.ID != nil {
			return cmp.Compare(*a.ID, *b.ID)
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return emit(c, out, func(w io.Writer) error { return printList(c, w, out) })
}

func (s *session) describeListed(d libvirt.Domain, full bool) (listed, error) {
	state, _, err := s.DomainGetState(d, 0)
	if err != nil {
		return listed{}, err
	}
	l := listed{Name: d.Name, UUID: uuidText(d), State: stateName(state), dom: d}
	if d.ID >= 0 {
		l.ID = &d.ID
	}
	if full {
		persistent, err := s.DomainIsPersistent(d)
		if err != nil {
			return listed{}, err
		}
		auto, err := s.DomainGetAutostart(d)
		if err != nil {
			return listed{}, err
		}
		l.Persistent, l.Autostart = persistent != 0, auto != 0
	}
	return l, nil
}

func printList(c *cli.Context, w io.Writer, domains []listed) error {
	switch {
	case c.Bool("name"):
		for _, l := range domains {
			fmt.Fprintln(w, l.Name)
		}
		return nil
	case c.Bool("uuid"):
		for _, l := range domains {
			fmt.Fprintln(w, l.UUID)
		}
		return nil
	}
	rows := make([][]string, 0, len(domains))
	for _, l := range domains {
		rows = append(rows, []string{idText(l.dom), l.Name, l.State})
	}
	return table(w, []string{"Id", "Name", "State"}, rows)
}
