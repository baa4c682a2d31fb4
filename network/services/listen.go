package services

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"virtd/virterr"
)

const (
	portDHCP  = 67
	portDHCP6 = 547
	portDNS   = 53
	portTFTP  = 69
)

// open opens what the child needs, in the network namespace of the calling thread.
func open(c Config, leases string) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	for _, name := range c.sockets() {
		f, err := openOne(c, name, leases)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func openOne(c Config, name, leases string) (*os.File, error) {
	switch {
	case name == socketDHCP:
		return bound(c, name, unix.SOCK_DGRAM, netip.AddrPortFrom(netip.IPv4Unspecified(), portDHCP))
	case name == socketFrames:
		return openFrames(c)
	case name == socketRA:
		return openRA(c)
	case strings.HasPrefix(name, socketTFTP):
		return bound(c, name, unix.SOCK_DGRAM, netip.AddrPortFrom(c.TFTP.Addr, portTFTP))
	case strings.HasPrefix(name, dirTFTP):
		fd, err := unix.Open(c.TFTP.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, failed("open directory '%s' of network '%s' for TFTP: %w", c.TFTP.Root, c.Name, err)
		}
		return os.NewFile(uintptr(fd), name), nil
	case name == socketDHCP6:
		return openDHCP6(c)
	case strings.HasPrefix(name, fileLeases), strings.HasPrefix(name, fileLeases6):
		path := leasePath(leases, c, name)
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, failed("open the leases of network '%s': %w", c.Name, err)
		}
		return f, nil
	}
	kind, text := unix.SOCK_DGRAM, strings.TrimPrefix(name, socketUDP)
	if strings.HasPrefix(name, socketTCP) {
		kind, text = unix.SOCK_STREAM, strings.TrimPrefix(name, socketTCP)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return nil, failed("listen on network '%s': %w", c.Name, err)
	}
	return bound(c, name, kind, netip.AddrPortFrom(addr, portDNS))
}

// leasePath is where the leases are that a child knows as name.
func leasePath(dir string, c Config, name string) string {
	return filepath.Join(dir, c.UUID.String()+"."+name)
}

func failed(format string, args ...any) error {
	return virterr.NewFrom(virterr.FromNetwork, virterr.SystemError, "Unable to "+format, args...)
}

// bound makes a socket that hears the network's bridge only.
func bound(c Config, name string, kind int, at netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(at.Port())}
	if at.Addr().Is4() {
		sa.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, failed("make a socket for network '%s': %w", c.Name, err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, c.Bridge))
	if err == nil && family == unix.AF_INET6 {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1), unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 16)
	}
	if err == nil {
		return os.NewFile(uintptr(fd), name), nil
	}
	unix.Close(fd)
	hint := ""
	switch {
	case errors.Is(err, unix.EADDRINUSE) && at.Port() == portDNS:
		hint = " (a DNS server of the host listens on all addresses: have it leave out interface " + c.Bridge + ", or write <dns enable='no'/>)"
	case errors.Is(err, unix.EADDRINUSE) && at.Port() == portTFTP:
		hint = " (a TFTP server of the host listens on all addresses: have it leave out interface " + c.Bridge + ")"
	case errors.Is(err, unix.EADDRINUSE):
		hint = " (a DHCP server of the host listens on all interfaces: have it leave out " + c.Bridge + ")"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = " (needs CAP_NET_BIND_SERVICE and CAP_NET_RAW)"
	}
	return nil, failed("listen at %s on the bridge of network '%s': %w%s", at, c.Name, err, hint)
}

// openFrames makes the socket by which DHCP answers leave: to guests that have no address yet, so they cannot go through the
// host's IP. It receives nothing.
func openFrames(c Config) (*os.File, error) {
	link, err := net.InterfaceByName(c.Bridge)
	if err != nil {
		return nil, failed("find the bridge of network '%s': %w", c.Name, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, failed("make a packet socket for network '%s': %w", c.Name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
		unix.Close(fd)
		return nil, failed("bind to bridge %s: %w", c.Bridge, err)
	}
	return os.NewFile(uintptr(fd), socketFrames), nil
}

// openDHCP6 makes a socket that hears what guests send to all servers of the link (RFC 8415, 7.1).
func openDHCP6(c Config) (*os.File, error) {
	f, err := bound(c, socketDHCP6, unix.SOCK_DGRAM, netip.AddrPortFrom(netip.IPv6Unspecified(), portDHCP6))
	if err != nil {
		return nil, err
	}
	link, err := net.InterfaceByName(c.Bridge)
	if err == nil {
		group := &unix.IPv6Mreq{Multiaddr: allServers.As16(), Interface: uint32(link.Index)}
		err = unix.SetsockoptIPv6Mreq(int(f.Fd()), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group)
	}
	if err != nil {
		f.Close()
		return nil, failed("prepare the DHCPv6 socket of network '%s': %w", c.Name, err)
	}
	return f, nil
}

var allServers = netip.MustParseAddr("ff02::1:2")

// openRA makes a raw ICMPv6 socket that is heard as a router is (RFC 4861, 4.2): with hop limit 255.
func openRA(c Config) (*os.File, error) {
	link, err := net.InterfaceByName(c.Bridge)
	if err != nil {
		return nil, failed("find the bridge of network '%s': %w", c.Name, err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, failed("make an ICMPv6 socket for network '%s': %w", c.Name, err)
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0) // blocks
	}
	filter.Data[icmpRouterSolicitation/32] &^= 1 << (icmpRouterSolicitation % 32)
	group := &unix.IPv6Mreq{Multiaddr: allRouters.As16(), Interface: uint32(link.Index)}
	err = errors.Join(
		unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, c.Bridge),
		unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &filter),
		unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link.Index),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255))
	if err != nil {
		unix.Close(fd)
		return nil, failed("prepare the ICMPv6 socket of network '%s': %w", c.Name, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("%s:%s", socketRA, c.Bridge)), nil
}
