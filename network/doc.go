// Package network manages virtual networks: their definitions, which survive kill -9 and power cuts as those of domains do,
// their active state, which the next virtd finds again, and the ports on them.
//
// A network of forward mode nat, route, open, or none (isolated) has a Linux bridge of its own with the host's addresses on
// it (package bridge), rules in one nftables table (package firewall), and a child process that leases addresses and answers
// DNS, and gives files to boot from (package services). One of mode bridge lends its ports an existing bridge and does nothing else. What starting a
// network does to the host goes through the Host interface, so that the manager is tested without one.
//
// A network of mode private, vepa or passthrough, or of mode bridge over links, is a pool of links: a port is on one of them, where
// whoever has the port makes a macvtap (direct.go). One of mode hostdev is a pool of virtual functions (function.go). Ports are of
// domains (port.go) or of clients (clientport.go).
//
// Left out: virtual ports of other switches, which are refused, and the wire protocol (package daemon).
//
// Start reading at Manager, then Network, then definition.
package network
