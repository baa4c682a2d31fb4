// Package hostcheck tells whether this host can run guests well, and what to do where it cannot: KVM and who may use it,
// whether a Linux guest runs on it (a probe guest tells), vhost-net, taps, memory, packet filters, the IOMMU and confinement
// features.
//
// Each check is a function of the host as a tree of files, so that tests give it one. Start reading at Run.
package hostcheck
