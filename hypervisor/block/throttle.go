package block

import (
	"fmt"
	"sync"
	"time"
)

// Rate limits how much of one kind goes through in a second. The zero value is no limit.
type Rate struct {
	// PerSecond is the average, in bytes or operations; 0 is no limit. What follows is 0 then.
	PerSecond uint64 `json:"perSecond,omitempty"`
	// Burst is what goes through in a second for a while after the disk was idle, at least PerSecond. With 0 the disk may be a
	// tenth of a second ahead of its average.
	Burst uint64 `json:"burst,omitempty"`
	// Seconds is how long Burst lasts; 0 is 1. A burst longer than a second is spread evenly over its time.
	Seconds uint64 `json:"seconds,omitempty"`
}

// Limits are what a Throttle enforces. Total limits of a kind go with none of the same kind's others. Writes are Write,
// WriteZeroes and Discard; a Discard moves no bytes. Flushes are not limited.
type Limits struct {
	TotalBytes Rate `json:"totalBytes,omitzero"`
	ReadBytes  Rate `json:"readBytes,omitzero"`
	WriteBytes Rate `json:"writeBytes,omitzero"`
	TotalOps   Rate `json:"totalOps,omitzero"`
	ReadOps    Rate `json:"readOps,omitzero"`
	WriteOps   Rate `json:"writeOps,omitzero"`
	// OpBytes makes an operation of more bytes count as that many times as it is larger; 0 counts each as one.
	OpBytes uint64 `json:"opBytes,omitempty"`
}

// maxRate keeps arithmetic in range; it is libvirt's limit too.
const maxRate = 1_000_000_000_000_000

// check refuses what makes no sense, with QEMU's words where it has some.
func (r Rate) check() error {
	switch {
	case r.PerSecond > maxRate || r.Burst > maxRate || r.Seconds > maxRate:
		return fmt.Errorf("I/O limit is above %d", int64(maxRate))
	case r.Burst != 0 && r.PerSecond == 0:
		return fmt.Errorf("bps_max/iops_max require corresponding bps/iops values")
	case r.Burst != 0 && r.Burst < r.PerSecond:
		return fmt.Errorf("bps_max/iops_max cannot be lower than bps/iops")
	case r.Seconds > 1 && r.Burst == 0:
		return fmt.Errorf("burst length set without burst rate")
	}
	return nil
}

// Check refuses limits that contradict each other.
func (l Limits) Check() error {
	for _, r := range l.rates() {
		if err := r.check(); err != nil {
			return err
		}
	}
	if l.TotalBytes.PerSecond != 0 && (l.ReadBytes.PerSecond != 0 || l.WriteBytes.PerSecond != 0) ||
		l.TotalOps.PerSecond != 0 && (l.ReadOps.PerSecond != 0 || l.WriteOps.PerSecond != 0) {
		return fmt.Errorf("bps/iops total values and read/write values cannot be used at the same time")
	}
	if l.OpBytes > maxRate {
		return fmt.Errorf("I/O limit is above %d", int64(maxRate))
	}
	return nil
}

// Places of a Limits' rates, and of their buckets in a Throttle.
const (
	totalBytes = iota
	readBytes
	writeBytes
	totalOps
	readOps
	writeOps
	rateKinds
)

func (l *Limits) rates() [rateKinds]Rate {
	return [...]Rate{totalBytes: l.TotalBytes, readBytes: l.ReadBytes, writeBytes: l.WriteBytes, totalOps: l.TotalOps, readOps: l.ReadOps, writeOps: l.WriteOps}
}

// Throttle holds the requests of one image, or of a group of images, to limits. It is safe for concurrent use.
//
// Each limit is a leaky bucket: a request may go as long as the bucket is not above its rim, and then pours in what it
// costs, whatever that is. A bucket is kept as the time at which it will be empty, so that nothing has to leak in between.
type Throttle struct {
	start  time.Time
	limits Limits

	mu      sync.Mutex
	buckets [rateKinds]bucket // by kind of rate
}

// NewThrottle makes a throttle with empty buckets.
func NewThrottle(l Limits) (*Throttle, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	t := &Throttle{start: time.Now(), limits: l}
	for i, r := range l.rates() {
		t.buckets[i].init(r)
	}
	return t, nil
}

// now is the time that the buckets go by: nanoseconds since the start.
func (t *Throttle) now() int64 { return int64(time.Since(t.start)) }

// reserve pours what op costs into the buckets and returns when op may begin, which is now or earlier for at once. One who
// waits reserves for one request at a time in each direction: so those who share a throttle take turns, and a request that
// has to wait for one limit takes no more than itself from the others.
func (t *Throttle) reserve(op *Op, now int64) (due int64) {
	bytes, ops := float64(op.Len), 1.0
	if size := t.limits.OpBytes; size > 0 && op.Len > int64(size) && op.Code != Discard {
		ops = bytes / float64(size)
	}
	if op.Code == Discard {
		bytes = 0
	}
	byteKind, opKind := writeBytes, writeOps
	if op.Code == Read {
		byteKind, opKind = readBytes, readOps
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(t.buckets[totalBytes].take(bytes, now), t.buckets[byteKind].take(bytes, now),
		t.buckets[totalOps].take(ops, now), t.buckets[opKind].take(ops, now))
}

// bucket is one limit. Times are nanoseconds on the throttle's clock.
type bucket struct {
	average, burst drip
}

// drip is a leak at one rate.
type drip struct {
	each  float64 // nanoseconds in which a unit leaks; 0: no limit
	rim   int64   // how far ahead of now empty may be
	empty int64   // when all has leaked
}

// tenth is how far a limit without a burst may be ahead, so that a disk is not slowed by each request's own size.
const tenth = int64(time.Second / 10)

// farthest bounds times, far beyond any that is waited for and far from overflow.
const farthest = 1 << 60

func (b *bucket) init(r Rate) {
	if r.PerSecond == 0 {
		return
	}
	b.average = drip{each: float64(time.Second) / float64(r.PerSecond), rim: tenth}
	if r.Burst == 0 {
		return
	}
	seconds := max(r.Seconds, 1)
	b.average.rim = int64(min(b.average.each*float64(r.Burst)*float64(seconds), farthest))
	if seconds > 1 {
		b.burst = drip{each: float64(time.Second) / float64(r.Burst), rim: tenth}
	}
}

// take pours units in and returns when what they belong to may begin.
func (b *bucket) take(units float64, now int64) int64 {
	return max(b.average.take(units, now), b.burst.take(units, now))
}

func (d *drip) take(units float64, now int64) (due int64) {
	if d.each == 0 || units == 0 {
		return 0
	}
	due = d.empty - d.rim
	d.empty = min(max(d.empty, now)+int64(min(units*d.each, farthest)), farthest)
	return due
}
