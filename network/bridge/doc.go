// Package bridge is virtd's hand on the host's network links: Linux bridges, the tap devices of bridge and ethernet
// interfaces, macvtap for direct ones, the vhost-net device, VLANs of ports and rates (tc). It prepares a link completely (queues, vnet headers,
// MTU, MAC, bridge port, up) and hands back open descriptors that the engine inherits; nothing half-made is left behind
// when a step fails.
//
// Every call works in the network namespace of the calling thread, keeps no descriptor of its own and holds no state but
// a counter for names. Taps that are not persistent vanish with the last descriptor of the engine; macvtaps do not, so
// who makes one notes it first (MacvtapConfig.Note) and removes it.
//
// The package leaves out addresses, routes, NAT and DHCP (package network) and everything on the guest's side of a tap
// (hypervisor/virtio/net). Start reading at Links.
package bridge
