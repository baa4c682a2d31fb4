package bridge

import (
	"net"
	"os"
	"time"

	"virtd/network/portconf"
)

// Links is what virtd needs of the host's network links. Host is the real one; bridgetest has a fake. All methods are
// safe for concurrent use. Errors are *virterr.Error with libvirt's texts.
type Links interface {
	// OpenTap creates the tap that c describes, or opens an existing one of that name, and returns its queues.
	OpenTap(c TapConfig) (*Tap, error)
	// OpenMacvtap creates a macvtap on top of a host interface and returns its queues.
	OpenMacvtap(c MacvtapConfig) (*Tap, error)
	// DeleteMacvtap removes the macvtap of that name and index; one of index 0, whose maker was interrupted before it learned
	// the index, is known by its MAC address. A link of that name which is another one is left alone, and none is no error.
	DeleteMacvtap(name string, index int, mac []byte) error
	// ApplyRxFilter makes a macvtap receive what its guest wants to receive.
	ApplyRxFilter(name string, f RxFilter) error
	// OpenVhostNet returns n descriptors of path, one for each queue pair; "" is VhostNetDevice.
	OpenVhostNet(path string, n int) ([]*os.File, error)
	// AddBridge creates a bridge and sets it up.
	AddBridge(c BridgeConfig) error
	// Delete removes a bridge, tap or macvtap. One that does not exist is not an error: the wanted state is reached.
	Delete(name string) error
	// Attach makes port a port of the bridge; Detach takes it out of whatever bridge it is in.
	Attach(bridge, port string) error
	// Isolate says whether a port of a bridge is kept from reaching other such ports.
	Isolate(port string, on bool) error
	Detach(port string) error
	// SetVLAN makes a port of a bridge a member of the VLANs that v says, or of the bridge's own choice.
	SetVLAN(bridge, port string, v portconf.VLAN) error
	// SetBandwidth limits what the guest behind a tap or macvtap receives and sends.
	SetBandwidth(name string, b portconf.Bandwidth) error
	// SetCoalesce says how many frames that a guest sends its tap gathers at most before the host looks at them; 0 gathers none.
	SetCoalesce(name string, frames uint32) error
	// ShapeBridge limits what comes into a network by its bridge and leaves it, and keeps rates free for interfaces.
	ShapeBridge(name string, b portconf.Bandwidth, floors []Floor) error
	// SetMTU sets the MTU of a link in bytes.
	SetMTU(name string, mtu int) error
	// SetUp switches the administrative state of a link.
	SetUp(name string, up bool) error
	// Link describes one link, List all of them in index order.
	Link(name string) (Link, error)
	List() ([]Link, error)
	// GuestStats returns the counters of a tap or macvtap as the guest behind it sees them.
	GuestStats(name string) (Stats, error)
}

// TapConfig says what tap an interface of a domain gets.
type TapConfig struct {
	// Name of the host device. Empty is vnetN with the next free N; a name with one %d is filled in likewise.
	Name string
	// Bridge to attach to; empty for none (libvirt's type ethernet).
	Bridge string
	// MAC is the guest's address. The host side gets the same with the first byte fe, so that the bridge never takes
	// a guest's address for its own. Nil leaves the kernel's random address.
	MAC net.HardwareAddr
	// MTU in bytes; 0 is the bridge's, or the device's own without a bridge.
	MTU int
	// Queues is the number of queue pairs, 1 to 16; 0 is 1. More than one makes a multi_queue tap.
	Queues int
	// Owner is the user id that may also attach to the tap (TUNSETOWNER); -1 is nobody but the capable.
	Owner int
	// Persistent keeps the tap when its last descriptor is closed.
	Persistent bool
	// Unmanaged opens an existing tap or macvtap as it is and changes nothing about it (libvirt's managed='no').
	Unmanaged bool
	// Isolated keeps the port from reaching other isolated ports of the bridge.
	Isolated bool
	// VLAN is what the port of the bridge is a member of, Bandwidth what the guest may receive and send.
	VLAN      portconf.VLAN
	Bandwidth portconf.Bandwidth
	// Device is what the tap is opened of; "" is /dev/net/tun.
	Device string
	// Coalesce is as for Links.SetCoalesce.
	Coalesce uint32
}

// Tap is an open tap or macvtap. The caller owns the files.
type Tap struct {
	Name  string
	Index int
	// Files has one descriptor for each queue pair, ready for the engine: vnet header of VnetHeaderSize bytes, no
	// offloads switched on yet.
	Files []*os.File
	// Offloads is the set of TUN_F_* bits the kernel takes for this device.
	Offloads uint
}

// VnetHeaderSize is the size in bytes of struct virtio_net_hdr_mrg_rxbuf, which precedes each packet of a virtio 1.x
// device (virtio 1.2, 5.1.6).
const VnetHeaderSize = 12

// MaxQueues is the largest number of queue pairs of one device.
const MaxQueues = 16

// Close closes the descriptors; a tap that is not persistent vanishes unless somebody else holds one.
func (t *Tap) Close() {
	for _, f := range t.Files {
		f.Close()
	}
	t.Files = nil
}

// MacvtapMode is how macvtap siblings reach each other (libvirt's <source mode=>).
type MacvtapMode string

// Modes of macvtap.
const (
	MacvtapVEPA        MacvtapMode = "vepa"
	MacvtapBridge      MacvtapMode = "bridge"
	MacvtapPrivate     MacvtapMode = "private"
	MacvtapPassthrough MacvtapMode = "passthrough"
)

// MacvtapConfig says what macvtap a direct interface of a domain gets.
type MacvtapConfig struct {
	Name   string // empty is macvtapN with the next free N
	Parent string // host interface
	Mode   MacvtapMode
	MAC    net.HardwareAddr // the guest's; a macvtap carries it itself
	MTU    int              // bytes; 0 is the parent's
	Queues int
	// Bandwidth is what the guest may receive and send.
	Bandwidth portconf.Bandwidth
	// Note is called with the name, and index 0, before the link exists, and with its index after: a macvtap does not go with
	// its last descriptor, so that whoever makes one has to find it again. An error ends the making. Nil notes nothing.
	Note func(name string, index int) error
}

// RxFilter is what a guest's driver asks its network device to receive, besides broadcasts.
type RxFilter struct {
	MAC          net.HardwareAddr
	Promiscuous  bool
	AllMulticast bool
	Multicast    []net.HardwareAddr
}

// BridgeConfig describes a Linux bridge.
type BridgeConfig struct {
	Name string
	MAC  net.HardwareAddr // nil: the kernel chooses, and changes it with the ports
	MTU  int              // bytes; 0 is the kernel's choice

	// STP makes the bridge speak the spanning tree protocol. Delay is how long a new port listens before it forwards; with
	// STP the kernel makes it 2 seconds at least.
	STP   bool
	Delay time.Duration

	// VLANFiltering makes ports members of VLANs. A kernel without the feature refuses.
	VLANFiltering bool
}

// Link is one network link of the host.
type Link struct {
	Name   string
	Index  int
	Kind   string // bridge, tuntap, macvtap, veth, device...
	MTU    int
	MAC    net.HardwareAddr
	Up     bool
	Bridge string // the bridge or other master it is a port of, or empty

	Isolated bool // as a port: it does not reach other isolated ports
}

// Stats are the counters of an interface as libvirt reports them: received and transmitted by the guest.
type Stats struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}
