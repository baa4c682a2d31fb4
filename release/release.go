// Package release holds the version of virtd: one number for its three programs, which are built and shipped together.
// What clients are told to be compatible with is in package daemon.
package release

// Version is this tree's version, major.minor.patch.
const Version = "0.1.0"
