// Package daemon answers libvirt's procedures: one file for each family of them, each procedure a few lines over the manager
// of domains or the host's facts. It translates arguments, results, events and errors, and decides nothing about domains.
//
// What can be made on a libvirt host and cannot here (network filters, snapshots) is listed as empty and looked up as not found;
// every other call fails with NO_SUPPORT in libvirt's words.
//
// It leaves out the protocol (rpc), access by group (cmd/virtd), and what procedures mean (domain/manager).
//
// Start reading at Daemon, then connect.go.
package daemon
