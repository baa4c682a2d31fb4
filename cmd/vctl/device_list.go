package main

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// domainDevice is one line of device list.
type domainDevice struct {
	Kind    string `json:"kind"`              // the element: disk, interface, ...
	Alias   string `json:"alias,omitempty"`   // of a running domain
	Target  string `json:"target,omitempty"`  // what detach calls it: a disk's name in the guest, an interface's MAC address
	Address string `json:"address,omitempty"` // where the guest finds it
	Source  string `json:"source,omitempty"`  // what of the host is behind it

	typ  string // the element's type
	text string // its XML
}

// deviceElement is what a device's XML says of that.
type deviceElement struct {
	XMLName xml.Name
	Type    string `xml:"type,attr"`
	Alias   struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
	Target struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
	MAC struct {
		Address string `xml:"address,attr"`
	} `xml:"mac"`
	Address addressElement `xml:"address"`
	Source  sourceElement  `xml:"source"`
	Backend struct {
		Text string `xml:",chardata"`
	} `xml:"backend"`
}

type sourceElement struct {
	File    string         `xml:"file,attr"`
	Dev     string         `xml:"dev,attr"`
	Pool    string         `xml:"pool,attr"`
	Volume  string         `xml:"volume,attr"`
	Bridge  string         `xml:"bridge,attr"`
	Network string         `xml:"network,attr"`
	Path    string         `xml:"path,attr"`
	Address addressElement `xml:"address"`
}

type addressElement struct {
	Type       string `xml:"type,attr"`
	Domain     string `xml:"domain,attr"`
	Bus        string `xml:"bus,attr"`
	Slot       string `xml:"slot,attr"`
	Function   string `xml:"function,attr"`
	Controller string `xml:"controller,attr"`
	Unit       string `xml:"unit,attr"`
	Port       string `xml:"port,attr"`
}

// text is 0000:01:00.0 for a PCI address, the type, controller, bus, and unit or port of others, "" for none.
func (a addressElement) text() string {
	if a.Slot == "" {
		parts := []string{}
		for _, p := range []string{a.Controller, a.Bus, a.Unit, a.Port} {
			if p != "" {
				parts = append(parts, p)
			}
		}
		if len(parts) == 0 {
			return ""
		}
		return a.Type + " " + strings.Join(parts, ":")
	}
	number := func(text string) uint64 {
		n, _ := strconv.ParseUint(text, 0, 32) // the daemon has checked it; none is 0
		return n
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", number(a.Domain), number(a.Bus), number(a.Slot), number(a.Function))
}

func (e deviceElement) device(text string) domainDevice {
	d := domainDevice{Kind: e.XMLName.Local, Alias: e.Alias.Name, Address: e.Address.text(), typ: e.Type, text: text}
	switch d.Kind {
	case "disk":
		d.Target = e.Target.Dev
	case "interface":
		d.Target = e.MAC.Address
	}
	d.Source = e.source()
	return d
}

func (e deviceElement) source() string {
	src := e.Source
	switch {
	case src.Network != "":
		return "network " + src.Network
	case src.Bridge != "":
		return "bridge " + src.Bridge
	case src.Pool != "" && src.File == "":
		return "volume " + src.Pool + "/" + src.Volume
	case e.XMLName.Local == "rng":
		return strings.TrimSpace(e.Backend.Text)
	}
	return cmp.Or(src.File, src.Dev, src.Path, src.Address.text())
}

// devices reads the devices that a domain's XML has, in its order.
func devices(document string) ([]domainDevice, error) {
	dec := xml.NewDecoder(strings.NewReader(document))
	out, depth, inside := []domainDevice{}, 0, false
	for {
		begin := dec.InputOffset()
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the domain's XML: %w", err)
		}
		switch t := t.(type) {
		case xml.EndElement:
			depth--
			inside = inside && depth != 1
		case xml.StartElement:
			if depth == 2 && inside {
				var e deviceElement
				if err := dec.DecodeElement(&e, &t); err != nil {
					return nil, fmt.Errorf("read the domain's XML: %w", err)
				}
				if e.XMLName.Local != "emulator" { // a program of the host, which no guest sees
					out = append(out, e.device(document[begin:dec.InputOffset()]))
				}
				continue
			}
			inside = depth == 1 && t.Name.Local == "devices"
			depth++
		}
	}
}

// devices reads the devices that a domain has: those of its definition if inactive, else those that it runs with.
func (s *session) devices(d libvirt.Domain, inactive bool) ([]domainDevice, error) {
	var flags libvirt.DomainXMLFlags
	if inactive {
		flags |= libvirt.DomainXMLInactive
	}
	document, err := s.DomainGetXMLDesc(d, flags)
	if err != nil {
		return nil, fmt.Errorf("failed to describe domain '%s': %w", d.Name, err)
	}
	return devices(document)
}

func deviceList(c *cli.Context, s *session, d libvirt.Domain) error {
	list, err := s.devices(d, c.Bool("inactive"))
	if err != nil {
		return err
	}
	return emit(c, list, func(w io.Writer) error {
		rows := make([][]string, 0, len(list))
		for _, v := range list {
			row := []string{v.Kind, v.Alias, v.Target, v.Address, v.Source}
			for i, cell := range row {
				row[i] = cmp.Or(cell, "-")
			}
			rows = append(rows, row)
		}
		return table(w, []string{"Kind", "Alias", "Target", "Address", "Source"}, rows)
	})
}
