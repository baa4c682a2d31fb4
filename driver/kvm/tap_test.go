package kvm

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"

	"virtd/network/bridge"
	"virtd/network/firewall"
	"virtd/network/portconf"
	"virtd/virterr"
)

// calls notes what is done to taps, and fails where it is told to. It has no other links.
type calls struct {
	Links
	list []string
	fail string
}

func (c *calls) note(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	c.list = append(c.list, line)
	if line == c.fail {
		return errors.New("no luck")
	}
	return nil
}

func (c *calls) OpenTap(t bridge.TapConfig) (*bridge.Tap, error) {
	return &bridge.Tap{Name: "vnet7"}, c.note("open on %s vlan %v in %d", t.Bridge, t.VLAN.Tags, t.Bandwidth.In.Average)
}
func (c *calls) OpenVhostNet(string, int) ([]*os.File, error) { return nil, nil }
func (c *calls) Attach(bridge, port string) error             { return c.note("attach %s to %s", port, bridge) }
func (c *calls) Isolate(port string, on bool) error           { return c.note("isolate %s %v", port, on) }
func (c *calls) GuestStats(string) (bridge.Stats, error)      { return bridge.Stats{}, nil }
func (c *calls) Set(tap string, f *firewall.Filter) error {
	return c.note("filter %s by %s", tap, f.Name)
}
func (c *calls) Remove(tap string) error       { return c.note("filter %s no more", tap) }
func (c *calls) Keep(string, *firewall.Filter) {}
func (c *calls) Restore() error                { return nil }
func (c *calls) SetVLAN(on, port string, v portconf.VLAN) error {
	return c.note("vlan %s %s %v", on, port, v.Tags)
}
func (c *calls) SetCoalesce(name string, frames uint32) error {
	return c.note("coalesce %s %d", name, frames)
}
func (c *calls) SetBandwidth(name string, b portconf.Bandwidth) error {
	return c.note("bandwidth %s in %d", name, b.In.Average)
}

// TestUpdateTap: only what differs is changed; on another bridge everything of the port is set anew.
func TestUpdateTap(t *testing.T) {
	plain := &TapResource{Bridge: "br0"}
	full := &TapResource{Bridge: "br0", Isolated: true, VLAN: &portconf.VLAN{Tags: []uint16{5}}, Bandwidth: &portconf.Bandwidth{In: portconf.Rate{Average: 9}},
		Filter: &firewall.Filter{Name: "clean-traffic"}, Coalesce: 7}
	moved := *full
	moved.Bridge = "br1"
	for _, c := range []struct {
		have, want *TapResource
		calls      []string
	}{
		{plain, plain, nil},
		{full, full, nil},
		{plain, full, []string{"vlan br0 vnet7 [5]", "isolate vnet7 true", "bandwidth vnet7 in 9", "coalesce vnet7 7", "filter vnet7 by clean-traffic"}},
		{full, plain, []string{"vlan br0 vnet7 []", "isolate vnet7 false", "bandwidth vnet7 in 0", "coalesce vnet7 0", "filter vnet7 no more"}},
		{full, &moved, []string{"attach vnet7 to br1", "vlan br1 vnet7 [5]", "isolate vnet7 true"}},
	} {
		k := &calls{}
		d := &Driver{cfg: Config{Links: k, Filters: k}}
		if err := d.updateTap("vnet7", c.have, c.want); err != nil || !slices.Equal(k.list, c.calls) {
			t.Errorf("%q, %v, want %q", k.list, err, c.calls)
		}
	}
}

// TestTapIsFilteredFromTheStart: a tap whose filter cannot be set is not handed out, and one without a filter asks for none.
func TestTapIsFilteredFromTheStart(t *testing.T) {
	k := &calls{fail: "filter vnet7 by clean-traffic"}
	d := &Driver{cfg: Config{Links: k, Filters: k}, log: slog.New(slog.DiscardHandler)}
	r := Resource{Alias: "net0", Tap: &TapResource{Bridge: "br0", MAC: "52:54:00:00:00:01", Filter: &firewall.Filter{Name: "clean-traffic"}}}
	o := &opened{taps: map[string]string{}}
	if _, err := d.openTap(o, r); err == nil || len(o.taps) != 0 {
		t.Errorf("%v, %v", err, o.taps)
	}
	d.cfg.Filters = nil
	if _, err := d.openTap(o, r); !virterr.Is(err, virterr.ConfigUnsupported) {
		t.Errorf("without a packet filter: %v", err)
	}
	k.list = nil
	d.cfg.Filters = k
	d.releaseTaps(map[string]string{"net0": "vnet7"})
	if want := []string{"filter vnet7 no more", "bandwidth vnet7 in 0"}; !slices.Equal(k.list, want) {
		t.Errorf("released by %q", k.list)
	}
}
