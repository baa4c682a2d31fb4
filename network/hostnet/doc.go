// Package hostnet makes and removes bridges of the host that belong to no virtual network, and puts the host's own links on
// them without cutting it off: addresses and routes of a link move with it, and everything goes back when the host's gateway
// does not answer over the new way, or when nobody confirms that the host can still be reached.
//
// A change that waits for its confirmation is on disk, so that one whose virtd was killed meanwhile is taken back by the next.
//
// Left out: what lasts over a boot, which is the distribution's (netplan, NetworkManager, ifupdown), and rules of policy
// routing. Start reading at Changer, then change.
package hostnet
