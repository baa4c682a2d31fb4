// Package taptest makes real taps for tests, in a network namespace of their own, and stands on the host's side of them
// with a packet socket. It leaves out netlink: a few ioctls do. Start reading at New.
package taptest
