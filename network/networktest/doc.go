// Package networktest has a network.Host without a host, for tests of what manages networks. It leaves out packets: what a
// guest would see is not there. Start reading at Fake.
package networktest
