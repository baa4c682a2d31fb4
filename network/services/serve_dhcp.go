package services

import (
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"virtd/network/dhcp"
)

// Bounds of one turn of the DHCP loop.
const (
	maxPacket = 1500 // bytes; a client's packet fits into an Ethernet frame
	batch     = 64   // packets that share one write to the disk
)

// serveDHCP answers guests. Packets that are there at the same time share one fsync, so that a flood costs the disk no more
// than its own pace.
func (c *child) serveDHCP() error {
	raw, err := c.dhcpConn.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, maxPacket)
	for {
		var replies []*dhcp.Reply
		got, wait := 0, true
		for got < batch {
			n, err := receive(raw, buf, wait)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				return err
			}
			got, wait = got+1, false
			if r := c.handleDHCP(buf[:n]); r != nil {
				replies = append(replies, r)
			}
		}
		c.mu.Lock()
		err := c.journal.Sync()
		c.mu.Unlock()
		if err != nil { // nobody is told of a lease that may not last
			c.log.printf("no leases are given: %v", err)
			continue
		}
		for _, r := range replies {
			c.send(r)
		}
	}
}

// receive reads one packet; without wait it fails with EAGAIN when there is none.
func receive(raw interface {
	Read(func(uintptr) bool) error
}, buf []byte, wait bool) (n int, err error) {
	rerr := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
		return !(wait && errors.Is(err, unix.EAGAIN))
	})
	if rerr != nil {
		return 0, rerr
	}
	if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
		return 0, nil
	}
	return n, err
}

func (c *child) handleDHCP(packet []byte) *dhcp.Reply {
	if len(packet) == 0 {
		return nil
	}
	c.mu.Lock()
	reply, note := c.lease.Handle(packet)
	c.mu.Unlock()
	if note != "" {
		c.log.printf("dhcp: %s", note)
	}
	return reply
}

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (c *child) send(r *dhcp.Reply) {
	c.mu.Lock()
	from := c.cfg.DHCP.Server.Addr()
	c.mu.Unlock()
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: c.ifindex(), Halen: 6}
	mac := r.MAC
	if mac == nil {
		mac = everybody
	}
	copy(to.Addr[:], mac)
	packet := frame(from, r.IP, r.Data)
	raw, err := c.frames.SyscallConn()
	if err == nil {
		werr := raw.Write(func(fd uintptr) bool {
			err = unix.Sendto(int(fd), packet, 0, to)
			return !errors.Is(err, unix.EAGAIN)
		})
		err = errors.Join(err, werr)
	}
	if err != nil {
		c.log.printf("dhcp: an answer to %s cannot be sent: %v", r.MAC, err)
	}
}

// ifindex is the bridge's number, as the packet socket is bound to it.
func (c *child) ifindex() int {
	index := 0
	if raw, err := c.frames.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if sa, err := unix.Getsockname(int(fd)); err == nil {
				if ll, ok := sa.(*unix.SockaddrLinklayer); ok {
					index = ll.Ifindex
				}
			}
		})
	}
	return index
}

// htons is the network's byte order, which packet sockets have their protocol in.
func htons(v uint16) uint16 { return v<<8 | v>>8 }

// LookupName and LookupIP make the leases known to the resolver.

// LookupName returns the addresses of a guest by its name.
func (c *child) LookupName(name string) []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []netip.Addr
	for _, s := range []*dhcp.Server{c.lease, c.lease6} {
		if s == nil {
			continue
		}
		if a, ok := s.LookupName(name); ok {
			out = append(out, a)
		}
	}
	return out
}

// LookupIP returns the name of a guest by its address.
func (c *child) LookupIP(ip netip.Addr) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.lease
	if ip.Is6() {
		s = c.lease6
	}
	if s == nil {
		return "", false
	}
	return s.LookupIP(ip)
}
