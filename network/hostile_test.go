package network_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"virtd/network"
	"virtd/network/bridge"
)

const hostileXML = `<network><name>hostile</name><forward/><bridge name='tbrhost' stp='off'/><domain name='lab.example' localOnly='yes'/>
<dns><host ip='10.88.0.1'><hostname>gw</hostname></host></dns>
<ip address='10.88.0.1' prefix='24'><tftp root='%s'/><dhcp><range start='10.88.0.50' end='10.88.0.53'/>
<host mac='52:54:00:00:88:02' name='fixed' ip='10.88.0.7'/></dhcp></ip>
<ip family='ipv6' address='fd88::1' prefix='64'><dhcp><range start='fd88::100' end='fd88::103'/></dhcp></ip></network>`

// udpFrame is an Ethernet frame with a UDP packet from a client that has no address.
func udpFrame(mac net.HardwareAddr, from, to uint16, payload []byte) []byte {
	b := append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...), 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[16:], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(ip[10:], internetChecksum(ip))
	udp := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	udp = append(binary.BigEndian.AppendUint16(udp, uint16(8+len(payload))), 0, 0) // no checksum
	return append(append(append(b, ip...), udp...), payload...)
}

// discoverFrame is the frame by which a client looks for servers.
func discoverFrame(t *testing.T, mac net.HardwareAddr) []byte {
	t.Helper()
	d, err := dhcpv4.NewDiscovery(mac)
	ok(t, err)
	return udpFrame(mac, 68, 67, d.ToBytes())
}

// requestFrame is the frame by which a client takes an address that it was not offered.
func requestFrame(t *testing.T, mac net.HardwareAddr, ip net.IP) []byte {
	t.Helper()
	d, err := dhcpv4.New(dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 88, 0, 1))))
	ok(t, err)
	return udpFrame(mac, 68, 67, d.ToBytes())
}

// TestHostileGuest: a guest that takes all addresses, floods the servers and sends them what is no packet of theirs is no reason
// for others not to be served.
func TestHostileGuest(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	boot := shortDir(t)
	ok(t, os.Chmod(boot, 0o755))
	n, err := m.Create(fmt.Sprintf(hostileXML, boot))
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	hostile, err := host.Links.OpenTap(bridge.TapConfig{Bridge: "tbrhost", Owner: -1})
	ok(t, err)
	t.Cleanup(hostile.Close)
	wire := pollable(t, hostile.Files[0])
	t.Cleanup(func() { wire.Close() })
	write := func(frame []byte) {
		_, err := wire.Write(append(make([]byte, bridge.VnetHeaderSize), frame...))
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	address := func() net.HardwareAddr {
		return net.HardwareAddr{0x52, 0x54, 0xff, byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}
	}
	for i := range 4 {
		write(requestFrame(t, address(), net.IPv4(10, 88, 0, byte(50+i))))
	}
	for end := time.Now().Add(20 * time.Second); len(addressesOf(n)) < 4; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("leased: %v", addressesOf(n))
		}
	}
	for range 400 {
		mac := address()
		junk := make([]byte, random.IntN(600))
		for i := range junk {
			junk[i] = byte(random.Uint32())
		}
		good := discoverFrame(t, mac)
		write(good)
		write(good[:42+random.IntN(len(good)-42)]) // cut off
		for _, port := range []uint16{67, 53, 69} {
			write(udpFrame(mac, 68, port, junk))
		}
	}
	fixed := plug(t, m, host, "hostile", "fixed", "52:54:00:00:88:02")
	if ip := fixed.lease(t, "fixed").YourIPAddr.String(); ip != "10.88.0.7" {
		t.Errorf("the static host got %s", ip)
	}
	fixed.run(t, func() error {
		return errors.Join(asks("10.88.0.1:53", "gw.lab.example.", dns.TypeA, "10.88.0.1"), waitLinkLocal(), leaseOf6())
	})
	late := plug(t, m, host, "hostile", "late", "52:54:00:00:88:03")
	o := <-late.async(func() (string, error) {
		c, err := nclient4.New("eth0", nclient4.WithTimeout(time.Second), nclient4.WithRetry(1))
		if err != nil {
			return "", err
		}
		defer c.Close()
		offer, err := c.DiscoverOffer(context.Background())
		if err != nil {
			return "", err
		}
		return offer.YourIPAddr.String(), nil
	})
	if !errors.Is(o.err, nclient4.ErrNoResponse) {
		t.Errorf("there was an address left, %s, of %v: %v", o.seen, addressesOf(n), o.err)
	}
	ok(t, n.Update(network.Change{Command: network.AddLast, Section: network.SectionDHCPRange, Index: 0, XML: "<range start='10.88.0.60' end='10.88.0.61'/>"},
		network.AffectLive))
	if ip := late.lease(t, "late").YourIPAddr.String(); !strings.HasPrefix(ip, "10.88.0.6") {
		t.Errorf("with another range the guest got %s", ip)
	}
}

func leaseOf6() error {
	_, err := lease6("fixed")
	return err
}

// TestReplyChecksums: what DHCP servers answer has complete checksums also for a guest whose driver said that it checks none, as
// clients on raw sockets do not know that.
func TestReplyChecksums(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	n, err := m.Create(strings.NewReplacer("clients", "sums", "tbrcl", "tbrsums").Replace(clientsXML))
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	tap, err := host.Links.OpenTap(bridge.TapConfig{Bridge: "tbrsums", Owner: -1})
	ok(t, err)
	t.Cleanup(tap.Close)
	ok(t, unix.IoctlSetInt(int(tap.Files[0].Fd()), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6))
	wire := pollable(t, tap.Files[0])
	defer wire.Close()
	// A bridge that just got its first port sends nothing before the kernel has seen its carrier, up to a second later: the
	// client looks for servers again, as clients do (RFC 2131, 4.1).
	discover := append(make([]byte, bridge.VnetHeaderSize), discoverFrame(t, net.HardwareAddr{0x52, 0x54, 0, 0, 0x87, 1})...)
	end, next := time.Now().Add(60*time.Second), time.Time{}
	buf := make([]byte, 4096)
	for {
		if time.Now().After(next) {
			_, err = wire.Write(discover)
			ok(t, err)
			next = time.Now().Add(time.Second)
			ok(t, wire.SetReadDeadline(next))
		}
		size, err := wire.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) {
			continue
		}
		ok(t, err)
		header, frame := buf[:bridge.VnetHeaderSize], buf[bridge.VnetHeaderSize:size]
		if len(frame) < 42 || frame[12] != 8 || frame[13] != 0 || frame[23] != 17 || binary.BigEndian.Uint16(frame[34:]) != 67 {
			continue // not an answer of DHCP
		}
		if header[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
			t.Error("the driver is asked to complete the checksum")
		}
		ip, udp := frame[14:34], frame[34:14+binary.BigEndian.Uint16(frame[16:])]
		pseudo := append(append([]byte{}, ip[12:20]...), 0, 17, byte(len(udp)>>8), byte(len(udp)))
		if binary.BigEndian.Uint16(udp[6:]) == 0 || internetChecksum(append(pseudo, udp...)) != 0 || internetChecksum(ip) != 0 {
			t.Errorf("checksums of %x", frame)
		}
		if src, _ := netip.AddrFromSlice(ip[12:16]); src.String() != "10.89.0.1" {
			t.Errorf("from %s", src)
		}
		return
	}
}
