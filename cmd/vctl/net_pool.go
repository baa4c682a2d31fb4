package main

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

// netFunction is a virtual function of a network's pool.
type netFunction struct {
	Address string `json:"address"`          // 0000:01:10.0
	Domain  string `json:"domain,omitempty"` // who has it
	Owner   string `json:"owner,omitempty"`  // the same, when that is no domain of virtd's: it is of a port that a client made
}

func (f netFunction) String() string {
	switch {
	case f.Domain != "":
		return f.Address + " (domain " + f.Domain + ")"
	case f.Owner != "":
		return f.Address + " (port of " + f.Owner + ")"
	}
	return f.Address + " (free)"
}

// pciAttrs are the attributes of an <address> of the host.
type pciAttrs struct {
	Domain   string `xml:"domain,attr"`
	Bus      string `xml:"bus,attr"`
	Slot     string `xml:"slot,attr"`
	Function string `xml:"function,attr"`
}

func (a pciAttrs) String() string {
	var n [4]uint64
	for i, s := range []string{a.Domain, a.Bus, a.Slot, a.Function} {
		n[i], _ = strconv.ParseUint(s, 0, 16) // the daemon printed it
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", n[0], n[1], n[2], n[3])
}

// describeForward adds what a network's documents tell of its forwarding and, of a running pool, its functions.
func (s *session) describeForward(n libvirt.Network, d *netDescription) error {
	text, err := s.NetworkGetXMLDesc(n, 0)
	if err != nil {
		return err
	}
	var doc struct {
		Forward struct {
			Mode string `xml:"mode,attr"`
			PF   struct {
				Dev string `xml:"dev,attr"`
			} `xml:"pf"`
			Addresses []pciAttrs `xml:"address"`
		} `xml:"forward"`
	}
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return fmt.Errorf("the document of network '%s' cannot be read: %w", n.Name, err)
	}
	d.Forward, d.PF = doc.Forward.Mode, doc.Forward.PF.Dev
	if d.Forward != "hostdev" {
		return nil
	}
	var taken map[string]netFunction
	if d.State == "active" {
		if taken, err = s.functionOwners(n); err != nil {
			return err
		}
	}
	for _, a := range doc.Forward.Addresses {
		f := taken[a.String()]
		f.Address = a.String()
		d.Functions = append(d.Functions, f)
	}
	return nil
}

// functionOwners tells who has which function, by the network's ports.
func (s *session) functionOwners(n libvirt.Network) (map[string]netFunction, error) {
	ports, _, err := s.NetworkListAllPorts(n, 1, 0)
	if err != nil {
		return nil, err
	}
	out := map[string]netFunction{}
	for _, p := range ports {
		text, err := s.NetworkPortGetXMLDesc(p, 0)
		if err != nil {
			continue // it went since the list was made
		}
		var doc struct {
			Owner   string   `xml:"owner>name"`
			UUID    string   `xml:"owner>uuid"`
			Address pciAttrs `xml:"plug>address"`
		}
		if err := xml.Unmarshal([]byte(text), &doc); err != nil {
			return nil, fmt.Errorf("the document of a port of network '%s' cannot be read: %w", n.Name, err)
		}
		f := netFunction{Owner: doc.Owner}
		if id, err := uuid.Parse(doc.UUID); err == nil {
			if _, err := s.DomainLookupByUUID(libvirt.UUID(id)); err == nil {
				f = netFunction{Domain: doc.Owner}
			}
		}
		out[doc.Address.String()] = f
	}
	return out, nil
}

// poolFields are the lines of net info about that.
func (d netDescription) poolFields() []field {
	if d.Forward != "hostdev" {
		return nil
	}
	list := make([]string, 0, len(d.Functions))
	for _, f := range d.Functions {
		list = append(list, f.String())
	}
	return []field{{"Forward", d.Forward}, {"Card", dash(d.PF)}, {"Functions", dash(strings.Join(list, ", "))}}
}
