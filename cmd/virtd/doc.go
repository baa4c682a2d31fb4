// Command virtd is the daemon that runs virtual machines. It speaks libvirt's wire protocol on unix sockets, keeps the
// definitions of domains, and starts one virtd-vmm process for each that runs. Ending it leaves them running; the next virtd
// finds them again.
//
// This package holds flags, the configuration file, sockets and the wiring of the others. See main.go.
package main
