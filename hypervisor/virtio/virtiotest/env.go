package virtiotest

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio"
)

// Transport records what a device tells its transport.
type Transport struct {
	Env           *virtio.Env
	configChanges atomic.Int32
	failure       atomic.Pointer[error]
}

// NewTransport makes an Env of the rings with the features accepted; the rings get them too. A nil ring is a queue that
// the driver did not enable. Below Packed the driver accepts packed rings too.
func NewTransport(t testing.TB, mem *memory.Memory, features uint64, rings ...*Ring) *Transport {
	t.Helper()
	if strings.HasPrefix(t.Name(), packedTest+"/") {
		features |= virtio.FeatureRingPacked
	}
	tr := &Transport{}
	tr.Env = &virtio.Env{
		Memory:        mem,
		Features:      features | virtio.FeatureVersion1,
		Queues:        make([]*virtio.Queue, len(rings)),
		ConfigChanged: func() { tr.configChanges.Add(1) },
		Fail:          func(err error) { tr.failure.CompareAndSwap(nil, &err) },
	}
	for i, r := range rings {
		if r != nil {
			if r.Index != i || r.Features != tr.Env.Features { // a ring that goes on elsewhere may have its driver at work
				r.Index, r.Features = i, tr.Env.Features
			}
			tr.Env.Queues[i] = r.Queue(t)
		}
	}
	return tr
}

// packedTest is the test that calls Packed.
const packedTest = "TestPackedRings"

// Packed runs tests of a device again, by name, with a driver that accepts packed rings. TestPackedRings calls it. The tests make
// their driver with NewTransport and know nothing of a split ring's parts.
func Packed(t *testing.T, tests map[string]func(*testing.T)) {
	if t.Name() != packedTest {
		t.Fatalf("packed rings are for tests below %s", packedTest)
	}
	for name, test := range tests {
		t.Run(name, test)
	}
}

// ConfigChanges is how often the device announced a configuration change.
func (tr *Transport) ConfigChanges() int { return int(tr.configChanges.Load()) }

// Failure is the first error the device failed with, or nil.
func (tr *Transport) Failure() error {
	if p := tr.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// WaitFailure waits for the device to fail and returns why.
func (tr *Transport) WaitFailure(t testing.TB) error {
	t.Helper()
	Eventually(t, "the device fails", func() bool { return tr.Failure() != nil })
	return tr.Failure()
}

// Eventually fails the test when cond does not become true within ten seconds.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s in vain until %s", what)
		}
	}
}
