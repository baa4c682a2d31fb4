package balloon

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"virtd/hypervisor/virtio"
)

// Statistics tags (virtio 1.2, 5.5.6.3).
const (
	tagSwapIn = iota
	tagSwapOut
	tagMajorFaults
	tagMinorFaults
	tagFree
	tagTotal
	tagAvailable
	tagCaches
	tagHugeAlloc
	tagHugeFail
	tagCount
)

const (
	statSize = 10 // le16 tag, le64 value, packed
	maxStats = 64 // more in one buffer are not read
)

// Stats are what the guest last told of its memory. A field is valid when its bit in Has is set; sizes are bytes.
type Stats struct {
	Has                      uint16 // bit by tag: 1<<tagFree and so on, in the order of the fields
	SwapIn, SwapOut          uint64
	MajorFaults, MinorFaults uint64
	Free, Total, Available   uint64
	DiskCaches               uint64
	HugeTLBAllocations       uint64
	HugeTLBFailures          uint64
	Updated                  time.Time // zero: the guest never told
}

// Each calls f for each valid field by QEMU's names without the stat- prefix, as x-virtd-balloon-stats has them.
func (s *Stats) Each(f func(name string, value uint64)) {
	for tag, name := range statNames {
		if s.Has>>tag&1 != 0 {
			f(name, *s.field(tag))
		}
	}
}

var statNames = [tagCount]string{"swap-in", "swap-out", "major-faults", "minor-faults", "free", "total", "available",
	"disk-caches", "hugetlb-allocations", "hugetlb-failures"}

func (s *Stats) field(tag int) *uint64 {
	return [tagCount]*uint64{&s.SwapIn, &s.SwapOut, &s.MajorFaults, &s.MinorFaults, &s.Free, &s.Total, &s.Available,
		&s.DiskCaches, &s.HugeTLBAllocations, &s.HugeTLBFailures}[tag]
}

// ErrNoStats says that the guest does not tell statistics: it has no driver, or one without them.
var ErrNoStats = errors.New("the guest's balloon driver tells no statistics")

// stats owns the statistics queue, on which the roles are turned around: the driver leaves a buffer with the device, and
// gets it back when the device wants news (5.5.6.3).
type stats struct {
	chain virtio.Chain
	held  bool // the device has the buffer
	raw   [statSize * maxStats]byte

	mu      sync.Mutex
	service *virtio.Service
	last    Stats
	period  time.Duration
	due     time.Time     // when the period asks next
	wanted  bool          // ask as soon as the buffer is there
	news    chan struct{} // closed at the next update
}

func (s *stats) init(period time.Duration) { s.period, s.news = period, make(chan struct{}) }

func (s *stats) setService(v *virtio.Service) {
	s.mu.Lock()
	s.service = v
	s.mu.Unlock()
}

// release makes the buffer available again in the stopped queue, so that whoever goes on with it takes it anew.
func (s *stats) release(q *virtio.Queue) {
	if s.held && q != nil {
		q.Unpop(&s.chain)
	}
	s.held = false
}

func (s *stats) forget() {
	s.mu.Lock()
	s.last, s.wanted = Stats{}, false
	s.mu.Unlock()
}

// turn reads the buffer when the driver sent it, and gives it back when statistics are wanted.
func (s *stats) turn(sv *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	for !sv.Stopping() {
		if s.held && q.Pending() { // a driver has one buffer; one that sends two gets the first back
			q.Push(&s.chain, 0)
			s.held = false
		}
		ok, err := q.Pop(&s.chain)
		if err != nil {
			return virtio.Turn{}, err
		}
		if !ok {
			break
		}
		s.held = true
		s.read()
	}
	ask, until := s.asks()
	if ask && s.held {
		q.Push(&s.chain, 0)
		s.held = false
	}
	return virtio.Turn{Until: until}, nil
}

// asks decides whether to ask the driver now and when the period asks next.
func (s *stats) asks() (now bool, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, s.wanted = s.wanted && s.held, s.wanted && !s.held
	if s.period <= 0 {
		return now, time.Time{}
	}
	if t := time.Now(); !t.Before(s.due) {
		s.due = t.Add(s.period)
		now = true
	}
	return now, s.due
}

// read parses the buffer: any number of tags in any order, unknown ones are skipped.
func (s *stats) read() {
	n := s.chain.CopyIn(s.raw[:], 0)
	var v Stats
	for b := s.raw[:n]; len(b) >= statSize; b = b[statSize:] {
		if tag := binary.LittleEndian.Uint16(b); tag < tagCount {
			*v.field(int(tag)) = binary.LittleEndian.Uint64(b[2:])
			v.Has |= 1 << tag
		}
	}
	v.Updated = time.Now()
	s.mu.Lock()
	s.last = v
	close(s.news)
	s.news = make(chan struct{})
	s.mu.Unlock()
}

// LastStats returns what the guest last told, without asking.
func (d *Device) LastStats() Stats {
	d.stats.mu.Lock()
	defer d.stats.mu.Unlock()
	return d.stats.last
}

// Stats asks the guest and returns what it tells. When ctx ends first it returns what the guest told before, with ctx's
// error.
func (d *Device) Stats(ctx context.Context) (Stats, error) {
	s := &d.stats
	s.mu.Lock()
	service, news := s.service, s.news
	if service == nil {
		last := s.last
		s.mu.Unlock()
		return last, ErrNoStats
	}
	s.wanted = true
	service.Wake()
	s.mu.Unlock()
	select {
	case <-news:
		return d.LastStats(), nil
	case <-ctx.Done():
		return d.LastStats(), ctx.Err()
	}
}

// SetStatsPeriod changes how often the guest tells statistics; 0 is on demand only.
func (d *Device) SetStatsPeriod(p time.Duration) {
	s := &d.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	s.period, s.due = p, time.Time{}
	if s.service != nil {
		s.service.Wake()
	}
}
