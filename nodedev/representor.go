package nodedev

import (
	"regexp"
	"strconv"
)

// In switchdev mode a card has an interface for itself and one for each of its functions, the ends of the card's switch that
// packets of the functions come from: representors. The kernel names them by their ports: pf0vf3, or c1pf0vf3 with the number
// of a controller, is of virtual function 3, pf0 of the card as a host sees it, pf0sf7 of a subfunction (Linux' documentation
// of devlink ports). The card's own interface is p0, or has no such name.
var (
	representorPort = regexp.MustCompile(`^(?:c[0-9]+)?pf[0-9]+(?:vf[0-9]+|sf[0-9]+)?$`)
	functionPort    = regexp.MustCompile(`^(?:c[0-9]+)?pf[0-9]+vf([0-9]+)$`)
)

// portName is the name of an interface's port at the card, or "".
func (h *Hostdevs) portName(dev, name string) string {
	return h.attr(dev+"/net/"+name, "phys_port_name")
}

// netOf is the interface of a function itself, the first where it has several, or "".
func (h *Hostdevs) netOf(dev string) string {
	for _, name := range h.list(dev + "/net") {
		if !representorPort.MatchString(h.portName(dev, name)) {
			return name
		}
	}
	return ""
}

// representors are the interfaces of a card that represent virtual functions, by their numbers.
func (h *Hostdevs) representors(dev string) map[int]string {
	out := map[int]string{}
	for _, name := range h.list(dev + "/net") {
		port := functionPort.FindStringSubmatch(h.portName(dev, name))
		if port == nil {
			continue
		}
		if number, err := strconv.Atoi(port[1]); err == nil {
			out[number] = name
		}
	}
	return out
}
