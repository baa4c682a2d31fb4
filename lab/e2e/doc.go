// Package e2e holds the tests that use virtd as its users do: vctl, unmodified virsh and stock Debian guests, in the
// lab. It has no code of its own. Start reading at host_test.go, then the test of the capability in question.
package e2e
