// Package hostif lists the host's network interfaces, for libvirt's calls that look at them: their kinds, link states and
// addresses, as the kernel tells by netlink, in the network namespace of the calling thread.
//
// It changes nothing: what configures a host's network is the distribution's business. Taps of running domains are left out,
// as libvirt does; so is everything about virtual networks (package network) and the taps themselves (network/bridge).
//
// Start reading at List.
package hostif
