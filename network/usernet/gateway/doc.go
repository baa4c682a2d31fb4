// Package gateway is the process behind an interface of type user where there is no passt: a router with DHCP and DNS, made of
// gvisor-tap-vsock's network stack, that speaks TCP, UDP and pings with the world in the guest's place.
//
// It is a package apart because of that stack, which is in no other program: the engine and virtd do not import it. What
// comes from the guest is checked before the library sees it (guard).
//
// Left out: IPv6 and ICMP other than echo, which the library has not. Start reading at Run.
package gateway
