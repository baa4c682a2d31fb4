package portconf

import (
	"math"
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// Rate is what one direction may carry. The units are libvirt's and tc's: Average, Peak and Floor in kilobytes of 1000 bytes a
// second, Burst in kibibytes. 0 is none.
type Rate struct {
	Average uint64 `json:"average,omitempty"`
	Peak    uint64 `json:"peak,omitempty"`  // at which a burst is sent
	Burst   uint64 `json:"burst,omitempty"` // what may be sent at peak speed
	Floor   uint64 `json:"floor,omitempty"` // is kept free on the network for this interface; inbound only
}

// Bandwidth is <bandwidth>: In is what comes to the guest, or into the network, Out what leaves it. The zero value limits
// nothing.
type Bandwidth struct {
	In  Rate `json:"in"`
	Out Rate `json:"out"`
}

// Limited reports whether anything is limited or kept free.
func (b Bandwidth) Limited() bool { return b.In.Average > 0 || b.Out.Average > 0 || b.In.Floor > 0 }

// MaxRate is the largest number that a rate can have: libvirt's calls carry 32 bits.
const MaxRate = math.MaxUint32

// ReadBandwidth reads n's <bandwidth>, the zero value where there is none. floor says whether a floor can be kept here.
func ReadBandwidth(n *xmltree.Node, floor bool) (Bandwidth, error) {
	var b Bandwidth
	n = n.Child("bandwidth")
	if n == nil {
		return b, nil
	}
	for _, side := range []struct {
		name string
		to   *Rate
	}{{"inbound", &b.In}, {"outbound", &b.Out}} {
		list := n.All(side.name)
		if len(list) > 1 {
			return b, list[1].Errorf(virterr.XMLError, "Only one child <%s> element allowed", side.name)
		}
		if len(list) == 0 {
			continue
		}
		r, err := readRate(list[0], floor)
		if err != nil {
			return b, err
		}
		*side.to = r
	}
	return b, nil
}

func readRate(n *xmltree.Node, floor bool) (r Rate, err error) {
	_, average := n.LookupAttr("average")
	_, peak := n.LookupAttr("peak")
	_, burst := n.LookupAttr("burst")
	_, hasFloor := n.LookupAttr("floor")
	switch {
	case hasFloor && !n.Is("inbound"):
		return r, n.Errorf(virterr.XMLError, "'floor' attribute allowed only in <inbound> element")
	case hasFloor && !floor:
		return r, n.Errorf(virterr.XMLError, "floor attribute is not supported for this config")
	case !average && !hasFloor:
		return r, n.Errorf(virterr.XMLError, "Missing mandatory average or floor attributes")
	case (peak || burst) && !average:
		return r, n.Errorf(virterr.XMLError, "'peak' and 'burst' require 'average' attribute")
	}
	for _, f := range []struct {
		name string
		to   *uint64
	}{{"average", &r.Average}, {"peak", &r.Peak}, {"burst", &r.Burst}, {"floor", &r.Floor}} {
		text, given := n.LookupAttr(f.name)
		if !given {
			continue
		}
		if *f.to, err = strconv.ParseUint(text, 10, 32); err != nil {
			return r, n.Errorf(virterr.XMLError, "could not convert bandwidth %s value '%s'", f.name, text)
		}
	}
	return r, nil
}

// Node returns the element, nil for a Bandwidth that says nothing.
func (b Bandwidth) Node() *xmltree.Node {
	if b == (Bandwidth{}) {
		return nil
	}
	out := xmltree.New("bandwidth")
	for _, side := range []struct {
		name string
		r    Rate
	}{{"inbound", b.In}, {"outbound", b.Out}} {
		if side.r == (Rate{}) {
			continue
		}
		n := out.Append(xmltree.New(side.name))
		for _, f := range []struct {
			name  string
			value uint64
		}{{"average", side.r.Average}, {"peak", side.r.Peak}, {"floor", side.r.Floor}, {"burst", side.r.Burst}} {
			if f.value > 0 {
				n.SetAttr(f.name, strconv.FormatUint(f.value, 10))
			}
		}
	}
	return out
}
