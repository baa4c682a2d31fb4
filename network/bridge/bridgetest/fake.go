package bridgetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"virtd/network/bridge"
	"virtd/network/portconf"
	"virtd/virterr"
)

// Fake keeps links in memory. The zero value has none. Taps live until Delete, as nobody sees their descriptors close.
// Safe for concurrent use.
type Fake struct {
	mu    sync.Mutex
	links []bridge.Link
	index int
	next  map[string]int

	// NoVhost makes OpenVhostNet fail as on a host without the module.
	NoVhost bool
	// Fail, when set, is asked before each call with the method's and the link's name; an error is returned as is.
	Fail func(method, name string) error
	// Stats are what GuestStats returns, by name.
	Stats map[string]bridge.Stats
	// VLANs and Bandwidths are what SetVLAN and SetBandwidth were told, by name, and what macvtaps were made with.
	VLANs      map[string]portconf.VLAN
	Bandwidths map[string]portconf.Bandwidth
	// Filters are what ApplyRxFilter was last called with, by name.
	Filters map[string]bridge.RxFilter
}

var _ bridge.Links = (*Fake)(nil)

func (f *Fake) enter(method, name string) error {
	f.mu.Lock()
	if f.Fail != nil {
		return f.Fail(method, name)
	}
	return nil
}

func (f *Fake) find(name string) *bridge.Link {
	for i := range f.links {
		if f.links[i].Name == name {
			return &f.links[i]
		}
	}
	return nil
}

func (f *Fake) add(l bridge.Link) *bridge.Link {
	f.index++
	l.Index, l.Up = f.index, true
	f.links = append(f.links, l)
	return &f.links[len(f.links)-1]
}

func (f *Fake) name(given, pattern string) string {
	if given != "" && !strings.Contains(given, "%d") {
		return given
	}
	if given != "" {
		pattern = given
	}
	if f.next == nil {
		f.next = map[string]int{}
	}
	for {
		n := f.next[pattern]
		f.next[pattern]++
		if name := strings.Replace(pattern, "%d", fmt.Sprint(n), 1); f.find(name) == nil {
			return name
		}
	}
}

func missing(text string, args ...any) error {
	return virterr.New(virterr.SystemError, text+": %w", append(args, noDevice{unix.ENODEV})...)
}

type noDevice struct{ unix.Errno }

func (noDevice) Error() string   { return "No such device" }
func (e noDevice) Unwrap() error { return e.Errno }

func nulls(n int) ([]*os.File, error) {
	var out []*os.File
	for range max(n, 1) {
		file, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		out = append(out, file)
	}
	return out, nil
}

// OpenTap implements bridge.Links.
func (f *Fake) OpenTap(c bridge.TapConfig) (*bridge.Tap, error) {
	err := f.enter("OpenTap", c.Name)
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if c.Bridge != "" {
		br := f.find(c.Bridge)
		if br == nil {
			return nil, missing("Cannot get interface MTU on '%s'", c.Bridge)
		}
		if c.MTU == 0 {
			c.MTU = br.MTU
		}
	}
	l := f.find(c.Name)
	if l == nil {
		if c.Unmanaged {
			return nil, virterr.New(virterr.ConfigUnsupported, "target managed='no' but specified dev doesn't exist: '%s'", c.Name)
		}
		mac := slices.Clone(c.MAC)
		if len(mac) > 0 {
			mac[0] = 0xfe
		}
		l = f.add(bridge.Link{Name: f.name(c.Name, "vnet%d"), Kind: "tuntap", MTU: c.MTU, MAC: mac, Bridge: c.Bridge})
	}
	files, err := nulls(c.Queues)
	return &bridge.Tap{Name: l.Name, Index: l.Index, Files: files}, err
}

// OpenMacvtap implements bridge.Links.
func (f *Fake) OpenMacvtap(c bridge.MacvtapConfig) (*bridge.Tap, error) {
	err := f.enter("OpenMacvtap", c.Name)
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if f.find(c.Parent) == nil {
		return nil, missing("Unable to get index for interface %s", c.Parent)
	}
	name := f.name(c.Name, "macvtap%d")
	if f.find(name) != nil {
		return nil, virterr.New(virterr.SystemError, "error creating macvtap interface %s@%s: File exists", name, c.Parent)
	}
	if c.Note != nil {
		if err := errors.Join(c.Note(name, 0), c.Note(name, f.index+1)); err != nil {
			return nil, err
		}
	}
	l := f.add(bridge.Link{Name: name, Kind: "macvtap", MTU: c.MTU, MAC: c.MAC})
	f.limit(l, c.Bandwidth)
	files, err := nulls(c.Queues)
	return &bridge.Tap{Name: l.Name, Index: l.Index, Files: files}, err
}

// AddLink puts a network card of the host into the fake.
func (f *Fake) AddLink(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(bridge.Link{Name: name, Kind: "device", MTU: 1500})
}

// DeleteMacvtap implements bridge.Links.
func (f *Fake) DeleteMacvtap(name string, index int, mac []byte) error {
	err := f.enter("DeleteMacvtap", name)
	defer f.mu.Unlock()
	f.links = slices.DeleteFunc(f.links, func(l bridge.Link) bool {
		return err == nil && l.Name == name && l.Kind == "macvtap" && (l.Index == index || index == 0 && bytes.Equal(l.MAC, mac))
	})
	return err
}

// ApplyRxFilter implements bridge.Links.
func (f *Fake) ApplyRxFilter(name string, filter bridge.RxFilter) error {
	return f.change("ApplyRxFilter", name, func(l *bridge.Link) error {
		if f.Filters == nil {
			f.Filters = map[string]bridge.RxFilter{}
		}
		f.Filters[name], l.MAC = filter, filter.MAC
		return nil
	})
}

// OpenVhostNet implements bridge.Links.
func (f *Fake) OpenVhostNet(path string, n int) ([]*os.File, error) {
	err := f.enter("OpenVhostNet", path)
	defer f.mu.Unlock()
	if err == nil && f.NoVhost {
		err = virterr.New(virterr.ConfigUnsupported, "vhost-net was requested for an interface, but is unavailable")
	}
	if err != nil {
		return nil, err
	}
	return nulls(n)
}

// AddBridge implements bridge.Links.
func (f *Fake) AddBridge(c bridge.BridgeConfig) error {
	err := f.enter("AddBridge", c.Name)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	if f.find(c.Name) != nil {
		return virterr.New(virterr.OperationFailed, "Unable to create bridge %s: an interface of that name exists", c.Name)
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	f.add(bridge.Link{Name: c.Name, Kind: "bridge", MTU: c.MTU, MAC: c.MAC})
	return nil
}

// Delete implements bridge.Links.
func (f *Fake) Delete(name string) error {
	err := f.enter("Delete", name)
	defer f.mu.Unlock()
	f.links = slices.DeleteFunc(f.links, func(l bridge.Link) bool { return err == nil && l.Name == name })
	return err
}

// change runs edit on a link under the lock.
func (f *Fake) change(method, name string, edit func(*bridge.Link) error) error {
	err := f.enter(method, name)
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	l := f.find(name)
	if l == nil {
		return missing("Cannot get interface '%s'", name)
	}
	return edit(l)
}

// Attach implements bridge.Links.
func (f *Fake) Attach(br, port string) error {
	return f.change("Attach", port, func(l *bridge.Link) error {
		if f.find(br) == nil {
			return missing("Unable to add bridge %s port %s", br, port)
		}
		l.Bridge = br
		return nil
	})
}

// Isolate implements bridge.Links.
func (f *Fake) Isolate(port string, on bool) error {
	return f.change("Isolate", port, func(l *bridge.Link) error { l.Isolated = on; return nil })
}

// Detach implements bridge.Links.
func (f *Fake) Detach(port string) error {
	return f.change("Detach", port, func(l *bridge.Link) error { l.Bridge = ""; return nil })
}

// SetVLAN implements bridge.Links.
func (f *Fake) SetVLAN(_, port string, v portconf.VLAN) error {
	return f.change("SetVLAN", port, func(l *bridge.Link) error {
		if f.VLANs == nil {
			f.VLANs = map[string]portconf.VLAN{}
		}
		f.VLANs[l.Name] = v
		return nil
	})
}

// SetBandwidth implements bridge.Links.
func (f *Fake) SetBandwidth(name string, b portconf.Bandwidth) error {
	return f.change("SetBandwidth", name, func(l *bridge.Link) error { f.limit(l, b); return nil })
}

// limit notes the rates of a link. The caller holds mu.
func (f *Fake) limit(l *bridge.Link, b portconf.Bandwidth) {
	if f.Bandwidths == nil {
		f.Bandwidths = map[string]portconf.Bandwidth{}
	}
	f.Bandwidths[l.Name] = b
}

// SetCoalesce implements bridge.Links.
func (f *Fake) SetCoalesce(name string, frames uint32) error {
	return f.change("SetCoalesce", name, func(*bridge.Link) error { return nil })
}

// ShapeBridge implements bridge.Links.
func (f *Fake) ShapeBridge(name string, b portconf.Bandwidth, _ []bridge.Floor) error {
	return f.SetBandwidth(name, b)
}

// SetMTU implements bridge.Links.
func (f *Fake) SetMTU(name string, mtu int) error {
	return f.change("SetMTU", name, func(l *bridge.Link) error { l.MTU = mtu; return nil })
}

// SetUp implements bridge.Links.
func (f *Fake) SetUp(name string, up bool) error {
	return f.change("SetUp", name, func(l *bridge.Link) error { l.Up = up; return nil })
}

// Link implements bridge.Links.
func (f *Fake) Link(name string) (out bridge.Link, err error) {
	err = f.change("Link", name, func(l *bridge.Link) error { out = *l; return nil })
	return out, err
}

// List implements bridge.Links.
func (f *Fake) List() ([]bridge.Link, error) {
	err := f.enter("List", "")
	defer f.mu.Unlock()
	return slices.Clone(f.links), err
}

// GuestStats implements bridge.Links.
func (f *Fake) GuestStats(name string) (out bridge.Stats, err error) {
	err = f.change("GuestStats", name, func(*bridge.Link) error { out = f.Stats[name]; return nil })
	return out, err
}
