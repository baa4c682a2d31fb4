// Package dhcp leases addresses to the guests of one virtual network (RFC 2131, RFC 8415): who gets which address, for how long,
// and how that is remembered. A Server answers packets as bytes and holds no socket, so it is tested and fuzzed without one;
// package services has the sockets.
//
// Everything that comes in was written by guests. What the server remembers is bounded by the addresses it may lease, and a
// lease is on disk before the guest is told of it.
//
// Left out: relay agents, leases for clients that are not on Ethernet, and of DHCPv6 temporary addresses and prefixes. Start reading at Config, then Server.
package dhcp
