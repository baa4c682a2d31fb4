// Package nodeinfo tells what the host is: processors and their topology, memory by NUMA node, how busy both are, and what
// the firmware says of the machine. Everything is read from /proc and /sys through a file system, so that tests give it one.
//
// It leaves out what KVM offers (hypervisor, driver) and devices (nodedev). Start reading at Node.
package nodeinfo
