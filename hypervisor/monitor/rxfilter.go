package monitor

import (
	"encoding/json"
	"fmt"
)

// rxFilter is an RxFilter as QMP has it (struct RxFilterInfo of QEMU's schema).
type rxFilter struct {
	Name              string   `json:"name"`
	Promiscuous       bool     `json:"promiscuous"`
	Multicast         string   `json:"multicast"`
	Unicast           string   `json:"unicast"`
	VLAN              string   `json:"vlan"`
	BroadcastAllowed  bool     `json:"broadcast-allowed"`
	MulticastOverflow bool     `json:"multicast-overflow"`
	UnicastOverflow   bool     `json:"unicast-overflow"`
	MainMAC           string   `json:"main-mac"`
	VLANTable         []int    `json:"vlan-table"`
	UnicastTable      []string `json:"unicast-table"`
	MulticastTable    []string `json:"multicast-table"`
}

func queryRxFilter(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Name string `json:"name"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	list, err := s.machine.RxFilters(a.Name)
	if err != nil {
		return nil, err
	}
	out := make([]rxFilter, 0, len(list))
	for _, f := range list {
		out = append(out, rxFilter{
			Name: f.Name, Promiscuous: f.Promiscuous, Multicast: amount(f.NoMulticast, f.AllMulticast), Unicast: amount(f.NoUnicast, f.AllUnicast),
			VLAN: "all", BroadcastAllowed: !f.NoBroadcast, MulticastOverflow: f.MulticastOverflow, UnicastOverflow: f.UnicastOverflow,
			MainMAC: macText(f.MAC), VLANTable: []int{}, UnicastTable: macTexts(f.Unicast), MulticastTable: macTexts(f.Multicast),
		})
	}
	return out, nil
}

// amount is how much of a kind of packets is received (enum RxState).
func amount(none, all bool) string {
	switch {
	case none:
		return "none"
	case all:
		return "all"
	}
	return "normal"
}

func macText(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func macTexts(list [][6]byte) []string {
	out := make([]string, 0, len(list))
	for _, m := range list {
		out = append(out, macText(m))
	}
	return out
}
