package kvm

import (
	"context"
	"net"
	"time"

	"virtd/network/bridge"
	"virtd/virterr"
)

// rxFilter is a device of the reply to query-rx-filter.
type rxFilter struct {
	Promiscuous       bool     `json:"promiscuous"`
	Multicast         string   `json:"multicast"`
	MulticastOverflow bool     `json:"multicast-overflow"`
	MainMAC           string   `json:"main-mac"`
	MulticastTable    []string `json:"multicast-table"`
}

// trusted reports whether the macvtap of an interface follows the guest's filter.
func (i *instance) trusted(alias string) bool {
	for _, nic := range i.definition().Tree().Root.Child("devices").All("interface") {
		if nic.Child("alias").Attr("name") == alias {
			return nic.Attr("type") == "direct" && nic.Attr("trustGuestRxFilters") == "yes"
		}
	}
	return false
}

// rxFilterChanged makes the macvtap of an interface receive what the guest wants now. It comes from the monitor's reader,
// which must not wait for the engine's answer.
func (i *instance) rxFilterChanged(alias string) {
	if !i.trusted(alias) {
		return // the engine says it once, and again only when it was asked
	}
	i.background.Go(func() {
		ctx, cancel := context.WithTimeout(i.ctx, 10*time.Second)
		defer cancel()
		if err := i.syncRxFilter(ctx, alias); err != nil && i.ctx.Err() == nil {
			i.d.log.Warn("an interface may not receive what its guest wants", "domain", i.name, "interface", alias, "err", err)
		}
	})
}

// syncRxFilters does that for all interfaces, whose guests may have changed their filters while nobody listened.
func (i *instance) syncRxFilters() {
	for alias := range i.macvtaps() {
		i.rxFilterChanged(alias)
	}
}

func (i *instance) syncRxFilter(ctx context.Context, alias string) error {
	i.filterMu.Lock() // the last answer is the last one applied
	defer i.filterMu.Unlock()
	var reply []rxFilter
	if err := i.execute(ctx, "query-rx-filter", map[string]string{"name": alias}, &reply); err != nil {
		return err
	}
	_, taps := i.used()
	if len(reply) != 1 || taps[alias] == "" {
		return nil // it went meanwhile
	}
	f, err := reply[0].filter()
	if err != nil {
		return err
	}
	return i.d.cfg.Links.ApplyRxFilter(taps[alias], f)
}

// filter checks what an engine says, which has it from its guest.
func (r *rxFilter) filter() (bridge.RxFilter, error) {
	f := bridge.RxFilter{Promiscuous: r.Promiscuous, AllMulticast: r.Multicast == "all" || r.MulticastOverflow}
	mac, err := net.ParseMAC(r.MainMAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return f, virterr.New(virterr.InternalError, "the engine names '%.40s' as the guest's address", r.MainMAC)
	}
	f.MAC = mac
	if r.Multicast == "none" {
		return f, nil
	}
	for _, text := range r.MulticastTable {
		group, err := net.ParseMAC(text)
		if err != nil || len(group) != 6 {
			return f, virterr.New(virterr.InternalError, "the engine names '%.40s' as a multicast address", text)
		}
		if group[0]&1 != 0 {
			f.Multicast = append(f.Multicast, group)
		}
	}
	return f, nil
}
