// Package services runs what a virtual network offers its guests: addresses by DHCP (package dhcp), names by DNS (package
// dns), router advertisements and files to boot from (package tftp). It does so in one child process for each network, which is this same program in another
// role: with a uid of its own, confined to the sockets and files that virtd opened for it, and outliving virtd, which finds it
// again by its record.
//
// The two sides: Supervisor starts, adopts, tells and ends children; Run is the child. They talk over a unix socket in a
// directory that only virtd can enter, one JSON object a line each way.
//
// Start reading at Config, then Supervisor, then Run.
package services
