package services

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

// answer6 is a reply by DHCPv6 on its way.
type answer6 struct {
	data []byte
	to   netip.AddrPort
}

// serveDHCP6 answers guests that ask by IPv6. As by IPv4, what is there at the same time shares one write to the disk.
func (c *child) serveDHCP6() error {
	buf := make([]byte, maxPacket)
	for {
		var replies []answer6
		for got := 0; got < batch; got++ {
			deadline := time.Time{}
			if got > 0 {
				deadline = time.Now().Add(time.Millisecond) // what is there is read, and nothing is waited for
			}
			if err := c.dhcp6.SetReadDeadline(deadline); err != nil {
				return err
			}
			n, from, err := c.dhcp6.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				continue // the bridge is down for now, or nobody took an answer
			}
			if r := c.handleDHCP6(buf[:n], from.Addr()); r != nil {
				replies = append(replies, answer6{r, from})
			}
		}
		c.mu.Lock()
		err := c.journal6.Sync()
		c.mu.Unlock()
		if err != nil { // nobody is told of a lease that may not last
			c.log.printf("no leases are given: %v", err)
			continue
		}
		for _, r := range replies {
			if _, err := c.dhcp6.WriteToUDPAddrPort(r.data, r.to); err != nil {
				c.log.printf("dhcpv6: an answer to %s cannot be sent: %v", r.to, err)
			}
		}
	}
}

func (c *child) handleDHCP6(packet []byte, from netip.Addr) []byte {
	c.mu.Lock()
	reply, note := c.lease6.Handle6(packet, from.WithZone(""))
	c.mu.Unlock()
	if note != "" {
		c.log.printf("dhcpv6: %s", note)
	}
	return reply
}
