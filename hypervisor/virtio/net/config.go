package net

import (
	"errors"
	"fmt"

	"virtd/hypervisor/virtio"
)

// Config describes one device. Descriptors belong to the device once New succeeded.
type Config struct {
	ID  string  // alias, for thread names and messages
	MAC [6]byte // the guest's address at start; its driver may change it
	// Taps has a descriptor for each queue pair, 1 to MaxPairs: queues of one tap or macvtap with IFF_VNET_HDR, and
	// IFF_MULTI_QUEUE where there are several.
	Taps []int
	// Stream is a connected stream socket in place of taps, where Streams is set: see stream.
	Stream  int
	Streams bool
	// User is who moves the packets in place of taps, where it is set.
	User *User
	// Vhosts has an open /dev/vhost-net for each queue pair, or is empty: then packets are moved by the engine.
	Vhosts   []int
	MTU      int  // bytes told to the driver; 0 tells none
	LinkDown bool // the cable is out at start
	// RxQueueSize and TxQueueSize are powers of two up to 1024; 0 is 256.
	RxQueueSize, TxQueueSize int
	// Offloads switches features by libvirt's names (hypervisor.NIC.Offloads); absent is on.
	Offloads map[string]bool
	// NoEventIdx does not offer VIRTIO_F_EVENT_IDX; Standby offers VIRTIO_NET_F_STANDBY.
	NoEventIdx, Standby bool
	// RxFilterChanged is called when the driver changed what it wants to receive, at most once until RxFilter is called. It
	// must not block. Nil tells nobody.
	RxFilterChanged func()
	// BackendChanged is called with what Backend returns when that changes after New. It must not block. Nil tells nobody.
	BackendChanged func(name string, refused error)
	// Steering offers VIRTIO_NET_F_RSS, where it is set. There are taps then.
	Steering *Steering
	// HashReport offers VIRTIO_NET_F_HASH_REPORT. The engine moves the packets then: there are no Vhosts and no User.
	HashReport bool
	// Log takes what the host's administrator should know, at most a few lines in the life of a device. Nil discards.
	Log func(format string, args ...any)

	cpus int // that threads may use; 0: those of the process
}

// User is a vhost-user back end of a device.
type User struct {
	Conn   int // connected stream socket
	Listen int // listening one, to which later back ends connect; -1: Reconnect brings them
	Pairs  int // queue pairs, 1 to MaxPairs
	// Changed is called when the back end came or went. It must not block. Nil tells nobody.
	Changed func(connected bool)
}

// Steering is by what the kernel spreads packets over the queues as the driver wants: descriptors of a BPF program for the tap,
// and of an array map that can be mapped to memory, of which the program reads what package rss puts there.
type Steering struct{ Program, Map int }

// MaxPairs is the largest number of queue pairs.
const MaxPairs = 16

// Sizes of the queues.
const (
	defaultQueueSize = 256
	maxQueueSize     = 1024 // chains of a tap packet fit one writev (IOV_MAX)
	controlQueueSize = 64
)

// Feature bits (virtio 1.2, 5.1.3).
const (
	featureCsum          uint64 = 1 << 0  // VIRTIO_NET_F_CSUM
	featureGuestCsum     uint64 = 1 << 1  // VIRTIO_NET_F_GUEST_CSUM
	featureGuestOffloads uint64 = 1 << 2  // VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
	featureMTU           uint64 = 1 << 3  // VIRTIO_NET_F_MTU
	featureMAC           uint64 = 1 << 5  // VIRTIO_NET_F_MAC
	featureGuestTSO4     uint64 = 1 << 7  // VIRTIO_NET_F_GUEST_TSO4
	featureGuestTSO6     uint64 = 1 << 8  // VIRTIO_NET_F_GUEST_TSO6
	featureGuestECN      uint64 = 1 << 9  // VIRTIO_NET_F_GUEST_ECN
	featureHostTSO4      uint64 = 1 << 11 // VIRTIO_NET_F_HOST_TSO4
	featureHostTSO6      uint64 = 1 << 12 // VIRTIO_NET_F_HOST_TSO6
	featureHostECN       uint64 = 1 << 13 // VIRTIO_NET_F_HOST_ECN
	featureMrgRxbuf      uint64 = 1 << 15 // VIRTIO_NET_F_MRG_RXBUF
	featureStatus        uint64 = 1 << 16 // VIRTIO_NET_F_STATUS
	featureCtrlVQ        uint64 = 1 << 17 // VIRTIO_NET_F_CTRL_VQ
	featureCtrlRx        uint64 = 1 << 18 // VIRTIO_NET_F_CTRL_RX
	featureCtrlRxExtra   uint64 = 1 << 20 // VIRTIO_NET_F_CTRL_RX_EXTRA
	featureMQ            uint64 = 1 << 22 // VIRTIO_NET_F_MQ
	featureCtrlMAC       uint64 = 1 << 23 // VIRTIO_NET_F_CTRL_MAC_ADDR
	featureGuestUSO4     uint64 = 1 << 54 // VIRTIO_NET_F_GUEST_USO4
	featureGuestUSO6     uint64 = 1 << 55 // VIRTIO_NET_F_GUEST_USO6
	featureHostUSO       uint64 = 1 << 56 // VIRTIO_NET_F_HOST_USO
	featureHashReport    uint64 = 1 << 57 // VIRTIO_NET_F_HASH_REPORT
	featureRSS           uint64 = 1 << 60 // VIRTIO_NET_F_RSS
	featureStandby       uint64 = 1 << 62 // VIRTIO_NET_F_STANDBY
)

// Sizes of struct virtio_net_hdr with num_buffers, which every VERSION_1 device uses (5.1.6), and of the same with what hash
// reports add (struct virtio_net_hdr_v1_hash), and the offset of num_buffers, after which nothing comes from a tap.
const (
	headerSize     = 12
	hashHeaderSize = 20
	numBuffersAt   = 10
)

// maxFrame is the longest frame, 64 KiB of IP behind an Ethernet header with two VLAN tags, and maxPacket the same with the
// longest header in front.
const (
	maxFrame  = 14 + 8 + 65535
	maxPacket = hashHeaderSize + maxFrame
)

// check refuses a Config that virtd should not have made.
func (c *Config) check() error {
	if c.User != nil {
		if c.Streams || len(c.Taps)+len(c.Vhosts) != 0 {
			return errors.New("a vhost-user socket beside taps or another socket")
		}
		if c.User.Pairs < 1 || c.User.Pairs > MaxPairs {
			return fmt.Errorf("%d queue pairs: 1 to %d are possible", c.User.Pairs, MaxPairs)
		}
	}
	if c.Streams && len(c.Taps)+len(c.Vhosts) != 0 {
		return fmt.Errorf("a stream socket beside %d tap queues and %d vhost descriptors", len(c.Taps), len(c.Vhosts))
	}
	if !c.Streams && c.User == nil && (len(c.Taps) < 1 || len(c.Taps) > MaxPairs) {
		return fmt.Errorf("%d tap queues: 1 to %d are possible", len(c.Taps), MaxPairs)
	}
	if len(c.Vhosts) != 0 && len(c.Vhosts) != len(c.Taps) {
		return fmt.Errorf("%d vhost descriptors for %d queue pairs", len(c.Vhosts), len(c.Taps))
	}
	if c.Steering != nil && len(c.Taps) == 0 {
		return errors.New("receive-side scaling without taps")
	}
	if c.HashReport && (c.User != nil || len(c.Vhosts) != 0) {
		return errors.New("hash reports of packets that others move")
	}
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) { // virtio 1.2, 5.1.4.1
		return fmt.Errorf("an MTU of %d bytes is outside 68 to 65535", c.MTU)
	}
	for _, size := range []*int{&c.RxQueueSize, &c.TxQueueSize} {
		if *size == 0 {
			*size = defaultQueueSize
		}
		if *size < 1 || *size > maxQueueSize || *size&(*size-1) != 0 {
			return fmt.Errorf("a queue of %d entries: a power of two up to %d is possible", *size, maxQueueSize)
		}
	}
	return nil
}

// needs lists features that make no sense without another (virtio 1.2, 5.1.3.1). Order matters: a feature comes after
// the one it needs.
var needs = []struct{ feature, needed uint64 }{
	{featureHostTSO4, featureCsum},
	{featureHostTSO6, featureCsum},
	{featureHostUSO, featureCsum},
	{featureHostECN, featureHostTSO4 | featureHostTSO6},
	{featureGuestTSO4, featureGuestCsum},
	{featureGuestTSO6, featureGuestCsum},
	{featureGuestUSO4, featureGuestCsum},
	{featureGuestUSO6, featureGuestCsum},
	{featureGuestECN, featureGuestTSO4 | featureGuestTSO6},
}

// offloadFeatures are libvirt's switches of <driver><host/><guest/></driver> and what they switch. Its ufo and gso have
// nothing to switch here.
var offloadFeatures = map[string]uint64{
	"host.csum":      featureCsum,
	"host.tso4":      featureHostTSO4,
	"host.tso6":      featureHostTSO6,
	"host.ecn":       featureHostECN,
	"host.uso":       featureHostUSO,
	"host.mrg_rxbuf": featureMrgRxbuf,
	"guest.csum":     featureGuestCsum,
	"guest.tso4":     featureGuestTSO4,
	"guest.tso6":     featureGuestTSO6,
	"guest.ecn":      featureGuestECN,
	"guest.uso4":     featureGuestUSO4,
	"guest.uso6":     featureGuestUSO6,
}

// offer computes the features of a device whose tap takes the given TUN_F_* offloads.
func offer(c *Config, tunOffloads uint) uint64 {
	f := featureMAC | featureStatus | featureCtrlVQ | featureCtrlRx | featureCtrlRxExtra | featureCtrlMAC | featureMrgRxbuf |
		virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	if c.NoEventIdx {
		f &^= virtio.FeatureEventIdx
	}
	if c.Standby {
		f |= featureStandby
	}
	if c.MTU != 0 {
		f |= featureMTU
	}
	if len(c.Taps) > 1 || c.User != nil && c.User.Pairs > 1 {
		f |= featureMQ
	}
	if c.Steering != nil {
		f |= featureRSS
	}
	if c.HashReport {
		f |= featureHashReport
	}
	f |= guestFeatures(tunOffloads)
	if f&featureGuestCsum != 0 {
		f |= featureGuestOffloads
		// A tap that checksums takes segments from the guest too; USO is as new on both ways.
		f |= featureCsum | featureHostTSO4 | featureHostTSO6 | featureHostECN
		if f&featureGuestUSO4 != 0 {
			f |= featureHostUSO
		}
	}
	for name, on := range c.Offloads {
		if !on {
			f &^= offloadFeatures[name]
		}
	}
	return consistent(f)
}

// consistent drops the features that lack what they need.
func consistent(f uint64) uint64 {
	for _, n := range needs {
		if f&n.needed == 0 {
			f &^= n.feature
		}
	}
	return f
}
