// Package bridgetest has a bridge.Links without a kernel, for tests of what uses links. It leaves out packets: queues are
// descriptors of /dev/null. Start reading at Fake.
package bridgetest
