// Package client is a small client of the protocol that package rpc serves: calls with their XDR arguments, streams in both
// directions at once, events and keepalive. virtd's own command line uses it for consoles and for the private program; the
// tests use it to say things no well-behaved client says.
//
// It leaves out everything that a libvirt library knows about domains; go-libvirt is the client for that.
//
// Start reading at Client.
package client
