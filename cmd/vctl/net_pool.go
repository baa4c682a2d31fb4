package main

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
)

// netFunction is a virtual function of a network's pool.
type netFunction struct {
	Address string `json:"address"`          // 0000:01:10.0
	Domain  string `json:"domain,omitempty"` // who has it
}

func (f netFunction) String() string {
	if f.Domain == "" {
		return f.Address + " (free)"
	}
	return f.Address + " (domain " + f.Domain + ")"
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
	owners := map[string]string{}
	if d.State == "active" {
		if owners, err = s.functionOwners(n); err != nil {
			return err
		}
	}
	for _, a := range doc.Forward.Addresses {
		d.Functions = append(d.Functions, netFunction{a.String(), owners[a.String()]})
	}
	return nil
}

// functionOwners tells which domain has which function, by the network's ports.
func (s *session) functionOwners(n libvirt.Network) (map[string]string, error) {
	ports, _, err := s.NetworkListAllPorts(n, 1, 0)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, p := range ports {
		text, err := s.NetworkPortGetXMLDesc(p, 0)
		if err != nil {
			continue // it went since the list was made
		}
		var doc struct {
			Owner   string   `xml:"owner>name"`
			Address pciAttrs `xml:"plug>address"`
		}
		if err := xml.Unmarshal([]byte(text), &doc); err != nil {
			return nil, fmt.Errorf("the document of a port of network '%s' cannot be read: %w", n.Name, err)
		}
		out[doc.Address.String()] = doc.Owner
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
