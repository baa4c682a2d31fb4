// Package portconf reads what networks, port groups and interfaces of domains say alike about a port: <bandwidth>, <vlan>, and
// the <address> of a virtual function. The values are plain data, which the driver and package bridge carry to the kernel.
//
// Left out: 802.1Qbg and Open vSwitch (<virtualport>), and what a port may send (package nwfilter). Start reading at Bandwidth,
// then VLAN.
package portconf
